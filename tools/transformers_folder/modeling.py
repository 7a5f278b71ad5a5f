"""Entry of the generated modelling file: what transformers asks of a model, around the network of this repository.

`folder.py` bundles this module with the sources of the network. It is never imported here, and takes only what it can
import anywhere: the scan is plain PyTorch unless the kernels of this repository or of mamba-ssm can be imported.
"""

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from mamba.mamba_ssm.ops.causal_conv1d import _compose as convolve_in_pytorch
from mamba.mamba_ssm.ops.layer_norm import _compose as add_norm_in_pytorch
from mamba.mamba_ssm.ops.selective_scan.portable import backward as portable_backward
from mamba.mamba_ssm.ops.selective_scan.portable import forward as portable_forward
from mamba.mamba_ssm.ops.selective_scan.reference import compose_scan
from mamba.mamba_ssm.ops.selective_scan.stock import scan_direction as stock_direction
from models.config import ModelConfig
from models.initialisation import LINEAR_STD
from models.videomambapro import VideoMambaPro

DEFAULTS: dict[str, Any] = ModelConfig().values()
MIXER_FIELDS: tuple[str, ...] = tuple(ModelConfig().mixer_values())

try:  # the kernels of VideoMambaPro's repository
    from mamba.mamba_ssm.ops.causal_conv1d import causal_conv1d as fused_convolution
    from mamba.mamba_ssm.ops.layer_norm import add_norm as fused_add_norm
    from mamba.mamba_ssm.ops.selective_scan.registration import bidirectional_scan as fused_scan
except ImportError:
    fused_convolution = fused_add_norm = fused_scan = None


@functools.cache
def stock_scan() -> Any:
    """Return mamba-ssm's scan; None where it is not installed."""
    try:
        import selective_scan_cuda  # noqa: F401  (the compiled part)
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return selective_scan_fn


class PortableScan(torch.autograd.Function):
    """The bidirectional scan in plain PyTorch, with a backward pass that recomputes the states."""

    @staticmethod
    def forward(ctx, *inputs):
        """Compute the output of tensors and four switches, as `bidirectional_scan` passes them."""
        tensors, ctx.flags = inputs[:-4], inputs[-4:]
        out, states = portable_forward(*inputs)
        ctx.save_for_backward(*tensors, states)
        return out

    @staticmethod
    def backward(ctx, grad_out):
        """Compute the gradients of the tensors."""
        return (*portable_backward(grad_out, *ctx.saved_tensors, *ctx.flags), None, None, None, None)


def bidirectional_scan(
    u,
    delta,
    A,
    A_b,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    *,
    delta_softplus=True,
    elemental_residual=True,
    masked=False,
    masked_backward=True,
    backend=None,
):
    """Compute the gated sum of the forward scan with A and the backward scan with A_b, (batch, length, dim)."""
    switches = dict(elemental_residual=elemental_residual, masked=masked, masked_backward=masked_backward)
    if fused_scan is not None:
        return fused_scan(
            u, delta, A, A_b, B, C, D, z, delta_bias, delta_softplus=delta_softplus, backend=backend, **switches
        )
    B, C = (matrix.unsqueeze(2) if matrix.dim() == 3 else matrix for matrix in (B, C))
    inputs = (u, delta, A, A_b, B, C, D, z, delta_bias, delta_softplus, *switches.values())
    if u.is_cuda and stock_scan() is not None:
        scan_one = functools.partial(stock_direction, stock_scan())
        return checkpoint(compose_scan, scan_one, *inputs, use_reentrant=False, preserve_rng_state=False)
    return PortableScan.apply(*inputs)


def causal_conv1d(x, weight, bias=None, *, silu=True, reverse=False, backend=None):
    """Compute the causal depthwise convolution of x (batch, length, dim), backward in time if reversed, then SiLU."""
    if fused_convolution is not None:
        return fused_convolution(x, weight, bias, silu=silu, reverse=reverse, backend=backend)
    if reverse:
        return convolve_in_pytorch(x.flip(1), weight, bias, silu).flip(1)
    return convolve_in_pytorch(x, weight, bias, silu)


def add_norm(hidden, residual, weight, bias, eps, is_rms, *, backend=None):
    """Compute norm(residual + hidden) and residual + hidden."""
    if fused_add_norm is not None:
        return fused_add_norm(hidden, residual, weight, bias, eps, is_rms, backend=backend)
    return add_norm_in_pytorch(hidden, residual, weight, bias, eps, is_rms)


def choose_backend(backend, device, dtype):
    """Return the backend as it is; the kernels of the repository, where there are any, choose one."""
    return backend


def computes_at_once(x, backend):
    """Return False: branches are computed step by step, as the functions of this file do."""
    return False


mixer_branch: Any = None  # for branches that are computed at once


def state_rates(log, log_b, backend):
    """Compute A = -exp(A_log) of both directions, (dim, state) each, in float32."""
    return -torch.exp(log.float()), -torch.exp(log_b.float())


def computes_in_slices(x, backend):
    """Return False, for the same reason."""
    return False


scan_in_slices: Any = None  # for mixers that are computed in slices


class NetworkConfig:
    """Sizes and switches of the network, the entries of `model_config` in config.json."""

    def __init__(self, **fields: Any):
        vars(self).update(DEFAULTS | fields)

    def replace(self, **changes: Any) -> "NetworkConfig":
        """Return a copy with some fields changed."""
        return NetworkConfig(**(vars(self) | changes))

    def mixer_values(self) -> dict[str, Any]:
        """Return the keywords of the mixer."""
        return {name: getattr(self, name) for name in MIXER_FIELDS}


class VideoMambaProConfig(PretrainedConfig):
    """Configuration for transformers.

    Args:
        model_config: Sizes and switches of the network; those left out have their defaults.
        kwargs: Entries of every configuration, such as `id2label`, and further ones, which are kept.
    """

    model_type = "videomambapro"

    def __init__(self, model_config: dict[str, Any] | None = None, **kwargs: Any):
        self.model_config = DEFAULTS | (model_config or {})
        super().__init__(**kwargs)

    @property
    def num_frames(self) -> int:
        """Frames of a clip."""
        return self.model_config["num_frames"]

    @property
    def hidden_size(self) -> int:
        """Width of the tokens."""
        return self.model_config["embed_dim"]


class VideoMambaProForVideoClassification(PreTrainedModel):
    """Classifier of videos: one class, any number of classes or numbers, as `problem_type` of the configuration says.

    The configuration of a regression has `target_mean` and `target_scale` of its training targets in `objective`; the
    loss is that of standardised targets, and everything else is in the units of the targets.
    """

    config_class = VideoMambaProConfig
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]

    def __init__(self, config: VideoMambaProConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        if config.num_labels != config.model_config["num_classes"]:
            config.objective = {}  # of another head
        config.model_config = config.model_config | {"num_classes": config.num_labels}
        self.backbone = VideoMambaPro(NetworkConfig(**config.model_config))
        self.post_init()

    def forward(
        self,
        pixel_values_videos: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Classify clips.

        Args:
            pixel_values_videos: (batch, frames, channels, height, width), normalised; or several clips of each video,
                (batch, views, frames, channels, height, width), whose predictions are averaged.
            labels: For the loss: classes (batch,), zeros and ones (batch, labels), or numbers (batch, labels).
            output_hidden_states: Also return the tokens after each block, without the class token.
            return_dict: False for a tuple.
            kwargs: For the loss.

        Returns:
            loss, logits (batch, labels) and hidden states. Of several views, softmax or sigmoid of the logits are the
            mean probabilities (or the highest, if the test took those); the logits of a regression are numbers in the
            units of the targets.
        """
        several = pixel_values_videos.dim() == 6
        clips = pixel_values_videos.flatten(0, 1) if several else pixel_values_videos
        clips = clips.transpose(1, 2)  # (clips, channels, frames, height, width)
        hidden_states = None
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            features, hidden_states = self.backbone.forward_intermediates(clips, output_fmt="NLC")
        else:
            features = self.backbone.forward_features(clips)
        logits = self.backbone.forward_head(features)
        if several:
            logits = self._merge_views(logits.float().unflatten(0, (-1, pixel_values_videos.shape[1])))
        mean, scale = self._target_statistics(logits)
        loss = None
        if labels is not None:
            one_class = self.config.problem_type not in ("regression", "multi_label_classification")
            wanted = labels if one_class else (labels.to(logits) - mean) / scale
            loss = self.loss_function(wanted, logits, self.config, **kwargs)
        logits = logits * scale + mean
        hidden = None if hidden_states is None else tuple(hidden_states)
        output = ImageClassifierOutput(loss=loss, logits=logits, hidden_states=hidden)
        return output.to_tuple() if return_dict is False else output

    def _merge_views(self, logits: Tensor) -> Tensor:
        """Merge logits (batch, views, labels) as the tests of this repository do."""
        if self.config.problem_type == "regression":
            return logits.mean(1)
        if self.config.problem_type == "multi_label_classification":
            if getattr(self.config, "args", {}).get("view_merge") == "max":
                return logits.amax(1)
            return F.logsigmoid(logits).logsumexp(1) - F.logsigmoid(-logits).logsumexp(1)  # of the mean probability
        return logits.log_softmax(-1).logsumexp(1) - math.log(logits.shape[1])

    def _target_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and scale of the targets; 0 and 1 where there are none."""
        known = getattr(self.config, "objective", {}) if self.config.problem_type == "regression" else {}
        return like.new_tensor(known.get("target_mean", 0.0)), like.new_tensor(known.get("target_scale", 1.0))

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a head of another number of classes; the network initialises the rest itself."""
        if module is self.backbone.head and isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=LINEAR_STD)
            nn.init.zeros_(module.bias)

    def _set_gradient_checkpointing(self, enable: bool = True, *_: Any, **__: Any) -> None:
        self.backbone.set_grad_checkpointing(enable)
        self.gradient_checkpointing = enable
