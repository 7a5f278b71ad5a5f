"""VideoMambaPro (arXiv 2406.19006): a stack of bidirectional Mamba blocks over the tokens of a clip.

VideoMamba (arXiv 2403.06977) is the same model with mixers of type v2, without elemental residual and mask. Symbols:
    b batch, t tubelets in time, p patches per frame, d embed_dim; tokens are in frame order after the class token
"""

from typing import Any

import timm
import torch
import torch.nn as nn
from timm.layers import DropPath
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from common.frame_size import as_pair
from models.attentive_pooler import AttentivePooler
from models.blocks import Block, add_to_residual, make_norm
from models.config import Configurable, ModelConfig
from models.hub import HubFolder
from models.initialisation import LINEAR_STD, initialise
from models.mixers import MIXERS
from models.patch_embed import PatchEmbed
from models.positions import resize_spatial, resize_temporal
from models.timm_interface import TimmInterface

PUBLISHED_SIZES = {
    "tiny": dict(embed_dim=192, depth=24),
    "small": dict(embed_dim=384, depth=24),
    "middle": dict(embed_dim=576, depth=32),
}
BASE = dict(embed_dim=768, depth=24)  # published for images only, and without the two changes
NANO = dict(embed_dim=96, depth=6)  # not a published size; trains on a laptop CPU in minutes
PLAIN_VIDEOMAMBA = dict(bimamba_type="v2", elemental_residual=False, masked_backward=False)
REGISTERED: dict[str, dict[str, Any]] = (
    {"videomambapro_nano": NANO}
    | {f"videomambapro_{size}": numbers for size, numbers in PUBLISHED_SIZES.items()}
    | {f"videomamba_{size}": numbers | PLAIN_VIDEOMAMBA for size, numbers in PUBLISHED_SIZES.items()}
    | {"videomamba_base": BASE | PLAIN_VIDEOMAMBA}
    | {f"videomambapro_{size[0]}16_in1k": numbers for size, numbers in PUBLISHED_SIZES.items()}  # as published
)
"""Models registered with timm, each with its settings; videomamba_* are the baselines without the two changes."""


class VideoMambaPro(Configurable, TimmInterface, HubFolder):
    """Clip classifier: patch embedding, bidirectional Mamba blocks, class token, linear head.

    Args:
        config: Sizes and switches.
        settings: Fields of `ModelConfig` that replace those of `config` or the defaults.

    Raises:
        TypeError: A keyword is not a field.
        ValueError: A value is invalid, or two values contradict each other.
    """

    def __init__(self, config: ModelConfig | None = None, **settings: Any):
        super().__init__()
        config = self.config_class(**settings) if config is None else config.replace(**settings)
        self.config = config
        self.num_classes = config.num_classes
        self.in_chans = config.in_chans
        self.num_features = self.embed_dim = config.embed_dim
        self.num_frames = config.num_frames
        self.checkpointed_blocks = config.checkpoint_num if config.use_checkpoint else 0

        width, tubelets = config.embed_dim, config.num_frames // config.tubelet_size
        self.patch_embed = PatchEmbed(
            config.img_size, config.patch_size, config.tubelet_size, config.in_chans, width, config.stem
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.patch_embed.patches_per_frame, width))
        self.temporal_pos_embedding = nn.Parameter(torch.zeros(1, tubelets, width))
        self.pos_drop = nn.Dropout(config.drop_rate)

        rates = [config.drop_path_rate * i / max(1, config.depth - 1) for i in range(config.depth)]
        self.layers = nn.ModuleList(
            # A block applies drop path to the output of the previous block, so rates are shifted by one.
            Block(width, MIXERS[config.mixer](width, **config.mixer_values()), rate, config.rms_norm, config.backend)
            for rate in [0.0, *rates][: config.depth]
        )
        self.drop_path = DropPath(rates[-1])
        self.norm_f = make_norm(width, config.rms_norm)
        self.pooler = AttentivePooler(width, config.attentive_depth) if config.attentive_depth else None
        self.head_drop = nn.Dropout(config.fc_drop_rate)
        self.head = nn.Linear(width, config.num_classes) if config.num_classes > 0 else nn.Identity()

        initialise(self, config.depth, config.dt_init)
        nn.init.trunc_normal_(self.pos_embed, std=LINEAR_STD)

    def embed(self, clips: Tensor) -> Tensor:
        """Tokens of a clip with their positions: (b, 3, frames, height, width) to (b, 1 + t p, d).

        Positions are interpolated where the clip has other sizes than the model was built with. That is done anew for
        every batch: it takes less than a hundredth of the forward pass, and training differentiates it.

        Raises:
            ValueError: sides of the clip are no multiples of the tubelet size and the patch size.
        """
        tubelets, rows, columns = self.patch_embed.grid(clips)
        spatial = resize_spatial(self.pos_embed, self.patch_embed.grid_size, (rows, columns))
        x = self.patch_embed(clips) + spatial[:, 1:]
        x = x + resize_temporal(self.temporal_pos_embedding, tubelets).unsqueeze(2)
        cls_token = (self.cls_token + spatial[:, :1]).expand(x.shape[0], -1, -1)
        return self.pos_drop(torch.cat([cls_token, self.line_up(x)], dim=1))

    def line_up(self, patches: Tensor) -> Tensor:
        """Arrange patches (b, t, p, ...) into the sequence that the blocks process: (b, t p, ...), frame by frame."""
        return patches.flatten(1, 2)

    def in_grid(self, tokens: Tensor, clips: Tensor) -> Tensor:
        """Put what belongs to the patches, (b, t p, ...) as `line_up` orders it, back into places: (b, t, h, w, ...).

        Args:
            tokens: without the class token. clips: that they were made of.
        """
        tubelets, rows, columns = self.patch_embed.grid(clips)
        places = torch.arange(tokens.shape[1], device=tokens.device).view(1, tubelets, -1)
        order = torch.argsort(self.line_up(places)[0])
        return tokens[:, order].unflatten(1, (tubelets, rows, columns))

    def forward_tokens(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        """Compute all tokens after the last norm: (b, 1 + t p, d).

        Args:
            clips: (b, 3, frames, height, width).
            keep: (b, k) indices of the only tokens to process, in the order of the sequence, as for masked
                pretraining; the result is then (b, k, d). None for all tokens.
        """
        hidden_states, residual = self.embed(clips), None
        if keep is not None:
            hidden_states = hidden_states.gather(1, keep.unsqueeze(-1).expand(-1, -1, self.embed_dim))
        for index in range(len(self.layers)):
            hidden_states, residual = self.run_block(index, hidden_states, residual)
        return self.final_tokens(hidden_states, residual)

    def run_block(self, index: int, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run a block, with gradient checkpointing where it is on, from and to (b, 1 + t p, d) twice."""
        layer = self.layers[index]
        if index < self.checkpointed_blocks and torch.is_grad_enabled():
            return checkpoint(layer, hidden_states, residual, use_reentrant=False)
        return layer(hidden_states, residual)

    def final_tokens(self, hidden_states: Tensor, residual: Tensor | None) -> Tensor:
        """Add the last mixer's output to the residual stream and normalise: (b, 1 + t p, d)."""
        return self.norm_f(add_to_residual(self.drop_path(hidden_states), residual))

    def pool(self, tokens: Tensor) -> Tensor:
        """Return what the head reads of tokens (b, 1 + t p, d): the class token, or that of the pooler's query."""
        return tokens[:, 0] if self.pooler is None else self.pooler(tokens)

    def forward_features(self, clips: Tensor) -> Tensor:
        """Compute what the head reads, after the last norm: (b, d)."""
        return self.pool(self.forward_tokens(clips))

    def forward(self, clips: Tensor) -> Tensor:
        """Map clips (b, 3, frames, height, width) to logits (b, num_classes). An image is a clip of one frame."""
        return self.forward_head(self.forward_features(clips))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Map features (b, d) to logits (b, num_classes), or to the input of the head (b, d) for `pre_logits`."""
        features = self.head_drop(features)
        return features if pre_logits else self.head(features)

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay, in addition to vectors and biases."""
        marked = {name for name, p in self.named_parameters() if getattr(p, "_no_weight_decay", False)}
        return marked | {"pos_embed", "cls_token", "temporal_pos_embedding", "pooler.query.latent"}

    def group_matcher(self, coarse: bool = False) -> dict:
        """Group layers for timm's layer-wise learning rate decay: embeddings, blocks, then norm and head."""
        blocks = r"^layers" if coarse else [(r"^layers\.(\d+)", None), (r"^norm_f", (99999,))]
        return dict(stem=r"^cls_token|pos_embed|temporal_pos_embedding|patch_embed", blocks=blocks)


def _create(name: str, pretrained: bool, **settings: Any) -> Any:
    """Create a registered model with the caller's settings, as timm's own models do.

    `pretrained` loads weights only where timm was given a folder of them ("local-dir:...", "hf-hub:...").
    """
    source = settings.get("pretrained_cfg")
    sources = (source if isinstance(source, dict) else {}) | (settings.get("pretrained_cfg_overlay") or {})
    if pretrained and not any(sources.get(place) for place in ("file", "url", "hf_hub_id", "state_dict")):
        raise ValueError(
            "no pretrained weights are hosted for this model; load a file with models.checkpoint or --finetune FILE"
        )
    known: dict[str, Any] = {"name": name} | REGISTERED[name]
    features = dict(out_indices=settings.pop("out_indices", 3), feature_cls="getter")
    return build_model_with_cfg(
        _build, name, pretrained, feature_cfg=features, pretrained_filter_fn=_resize_positions, **(known | settings)
    )


def _build(device: Any = None, dtype: torch.dtype | None = None, **settings: Any) -> VideoMambaPro:
    """Build the model where timm's factory arguments say."""
    with torch.device(device or torch.get_default_device()):
        return VideoMambaPro(**settings).to(dtype=dtype)


def _resize_positions(state: dict[str, Tensor], model: VideoMambaPro) -> dict[str, Tensor]:
    """Interpolate the positions of a folder that timm loads to the sizes of the model."""
    stored = getattr(model, "pretrained_model_args", {})  # of the folder
    height, width = as_pair(stored.get("img_size", model.config.img_size))
    grid, wanted = (height // model.config.patch_size, width // model.config.patch_size), model.patch_embed.grid_size
    tubelets = model.temporal_pos_embedding.shape[1]
    return state | {
        "pos_embed": resize_spatial(state["pos_embed"], grid, wanted),
        "temporal_pos_embedding": resize_temporal(state["temporal_pos_embedding"], tubelets),
    }


default_cfgs = generate_default_cfgs(
    {name: dict(first_conv="patch_embed.proj", classifier="head") for name in REGISTERED}
)
"""timm's description of each model's input and weights; it looks for this name."""


def _register(name: str) -> None:
    """Register a model with timm by a function of that name in this module."""

    def create(pretrained: bool = False, **settings) -> Any:
        return _create(name, pretrained, **settings)

    create.__name__ = create.__qualname__ = name
    globals()[name] = register_model(create)


for _name in REGISTERED:
    _register(_name)


def registered_names() -> list[str]:
    """Return the names of all models of this family registered with timm, including those of other modules."""
    return timm.list_models("videomamba*")


def registered_config(name: str) -> ModelConfig | None:
    """Return the configuration of a registered name; None for names that are not registered here."""
    return VideoMambaPro.config_class(**REGISTERED[name]) if name in REGISTERED else None
