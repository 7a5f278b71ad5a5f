"""VideoMambaPro (arXiv 2406.19006): a plain stack of bidirectional Mamba blocks over the tokens of a clip.

VideoMamba (arXiv 2403.06977) is the same network with mixers of type v2 and neither of the two changes. Symbols:
    b batch, t tubelets in time, p patches of a frame, d embed_dim; tokens run frame by frame, the class token first
"""

import torch
import torch.nn as nn
from timm.layers import DropPath
from timm.models import register_model
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.blocks import Block, add_to_residual, make_norm
from models.initialisation import LINEAR_STD, initialise
from models.mixers import create_mixer
from models.patch_embed import PatchEmbed

PUBLISHED_SIZES = {
    "tiny": dict(embed_dim=192, depth=24),
    "small": dict(embed_dim=384, depth=24),
    "middle": dict(embed_dim=576, depth=32),
}
NANO = dict(embed_dim=96, depth=6)  # trains on a laptop's CPU in minutes; not a published size
PLAIN_VIDEOMAMBA = dict(bimamba_type="v2", elemental_residual=False, masked_backward=False)


class VideoMambaPro(nn.Module):
    """Clip classifier: patch embedding, bidirectional Mamba blocks, class token, linear head.

    Args:
        img_size: height and width of the frames, pixels. patch_size: of a patch, pixels. depth: number of blocks.
        embed_dim: width of the tokens. in_chans: channels of a frame. num_classes: 0 leaves the head out.
        drop_rate: dropout after the position embedding. drop_path_rate: stochastic depth of the last block, linear
        from 0.
        fc_drop_rate: dropout before the head. rms_norm: RMSNorm, else LayerNorm.
        bimamba_type, elemental_residual, masked_backward, scan_input, backend: see `Mamba`.
        dt_init: "published" or "mamba", see `models.initialisation`.
        tubelet_size: frames of a tubelet. num_frames: frames of a clip, a multiple of tubelet_size.
        use_checkpoint, checkpoint_num: recompute the first `checkpoint_num` blocks in the backward pass to save
        memory.
        d_state: entries of a channel's state. mixer: one of `models.mixers.MIXERS`.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        depth: int = 24,
        embed_dim: int = 192,
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        fc_drop_rate: float = 0.0,
        rms_norm: bool = True,
        bimamba_type: str = "v1",
        elemental_residual: bool = True,
        masked_backward: bool = True,
        scan_input: str = "conv",
        dt_init: str = "published",
        tubelet_size: int = 1,
        num_frames: int = 8,
        use_checkpoint: bool = False,
        checkpoint_num: int = 0,
        d_state: int = 16,
        backend: str | None = None,
        mixer: str = "mamba",
    ):
        super().__init__()
        if num_frames % tubelet_size:
            raise ValueError(f"num_frames {num_frames} must be a multiple of tubelet_size {tubelet_size}")
        self.num_classes = num_classes
        self.num_features = self.embed_dim = embed_dim
        self.num_frames = num_frames
        self.checkpointed_blocks = checkpoint_num if use_checkpoint else 0

        self.patch_embed = PatchEmbed(img_size, patch_size, tubelet_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.patch_embed.patches_per_frame, embed_dim))
        self.temporal_pos_embedding = nn.Parameter(torch.zeros(1, num_frames // tubelet_size, embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)

        rates = [drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        switches = dict(
            bimamba_type=bimamba_type,
            elemental_residual=elemental_residual,
            masked_backward=masked_backward,
            scan_input=scan_input,
            d_state=d_state,
            backend=backend,
        )
        self.layers = nn.ModuleList(
            # A block drops what the block before it put out, so the rates lag by one.
            Block(embed_dim, create_mixer(mixer, embed_dim, **switches), rate, rms_norm, backend)
            for rate in [0.0, *rates][:depth]
        )
        self.drop_path = DropPath(rates[-1])
        self.norm_f = make_norm(embed_dim, rms_norm)
        self.head_drop = nn.Dropout(fc_drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()

        initialise(self, depth, dt_init)
        nn.init.trunc_normal_(self.pos_embed, std=LINEAR_STD)

    def embed(self, clips: Tensor) -> Tensor:
        """Tokens of a clip with their positions: (b, 3, frames, height, width) to (b, 1 + t p, d)."""
        self._check_clips(clips)
        x = self.patch_embed(clips) + self.pos_embed[:, 1:]
        x = x + self.temporal_pos_embedding.unsqueeze(2)
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        return self.pos_drop(torch.cat([cls_token, self.line_up(x)], dim=1))

    def line_up(self, patches: Tensor) -> Tensor:
        """Put patches (b, t, p, ...) in the order in which the blocks meet them: (b, t p, ...), frame by frame."""
        return patches.flatten(1, 2)

    def forward_tokens(self, clips: Tensor) -> Tensor:
        """All tokens after the last norm: (b, 1 + t p, d)."""
        hidden_states, residual = self.embed(clips), None
        for index, layer in enumerate(self.layers):
            if index < self.checkpointed_blocks and torch.is_grad_enabled():
                hidden_states, residual = checkpoint(layer, hidden_states, residual, use_reentrant=False)
            else:
                hidden_states, residual = layer(hidden_states, residual)
        return self.norm_f(add_to_residual(self.drop_path(hidden_states), residual))

    def forward_features(self, clips: Tensor) -> Tensor:
        """The class token after the last norm: (b, d)."""
        return self.forward_tokens(clips)[:, 0]

    def forward(self, clips: Tensor) -> Tensor:
        """(b, 3, frames, height, width) to logits (b, num_classes). An image is a clip of one frame."""
        return self.head(self.head_drop(self.forward_features(clips)))

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone, beside vectors and biases."""
        marked = {name for name, p in self.named_parameters() if getattr(p, "_no_weight_decay", False)}
        return marked | {"pos_embed", "cls_token", "temporal_pos_embedding"}

    def group_matcher(self, coarse: bool = False) -> dict:
        """Layers by position for timm's layer-wise learning-rate decay: embeddings, blocks, then norm and head."""
        blocks = r"^layers" if coarse else [(r"^layers\.(\d+)", None), (r"^norm_f", (99999,))]
        return dict(stem=r"^cls_token|pos_embed|temporal_pos_embedding|patch_embed", blocks=blocks)

    def get_classifier(self) -> nn.Module:
        """The head (timm's name)."""
        return self.head

    def _check_clips(self, clips: Tensor) -> None:
        expected = (self.num_frames, self.patch_embed.img_size, self.patch_embed.img_size)
        if clips.dim() != 5 or tuple(clips.shape[2:]) != expected:
            raise ValueError(
                f"clips must be (batch, channels, {', '.join(map(str, expected))}) as the model was built "
                f"(num_frames, img_size), got {tuple(clips.shape)}; an image is a clip of one frame"
            )


def _create(pretrained: bool, defaults: dict, **overrides) -> VideoMambaPro:
    """A model from its size and the caller's arguments; timm's bookkeeping arguments are not the model's."""
    if pretrained:
        raise ValueError("no weights are hosted for this model; load a file with models.checkpoint or --finetune FILE")
    for bookkeeping in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        overrides.pop(bookkeeping, None)
    return VideoMambaPro(**(defaults | overrides))


@register_model
def videomambapro_nano(pretrained: bool = False, **kwargs) -> VideoMambaPro:
    """VideoMambaPro of 96 x 6 for demonstrations and tests."""
    return _create(pretrained, NANO, **kwargs)


@register_model
def videomambapro_tiny(pretrained: bool = False, **kwargs) -> VideoMambaPro:
    """VideoMambaPro-Ti, 192 x 24."""
    return _create(pretrained, PUBLISHED_SIZES["tiny"], **kwargs)


@register_model
def videomambapro_small(pretrained: bool = False, **kwargs) -> VideoMambaPro:
    """VideoMambaPro-S, 384 x 24."""
    return _create(pretrained, PUBLISHED_SIZES["small"], **kwargs)


@register_model
def videomambapro_middle(pretrained: bool = False, **kwargs) -> VideoMambaPro:
    """VideoMambaPro-M, 576 x 32."""
    return _create(pretrained, PUBLISHED_SIZES["middle"], **kwargs)


@register_model
def videomamba_tiny(pretrained: bool = False, **kwargs) -> VideoMambaPro:
    """The VideoMamba-Ti baseline: type v2, no residual, no mask."""
    return _create(pretrained, PUBLISHED_SIZES["tiny"] | PLAIN_VIDEOMAMBA, **kwargs)


@register_model
def videomamba_small(pretrained: bool = False, **kwargs) -> VideoMambaPro:
    """The VideoMamba-S baseline."""
    return _create(pretrained, PUBLISHED_SIZES["small"] | PLAIN_VIDEOMAMBA, **kwargs)


@register_model
def videomamba_middle(pretrained: bool = False, **kwargs) -> VideoMambaPro:
    """The VideoMamba-M baseline."""
    return _create(pretrained, PUBLISHED_SIZES["middle"] | PLAIN_VIDEOMAMBA, **kwargs)


@register_model
def videomambapro_t16_in1k(pretrained: bool = False, **kwargs) -> VideoMambaPro:
    """The published code's name for VideoMambaPro-Ti."""
    return videomambapro_tiny(pretrained, **kwargs)


@register_model
def videomambapro_s16_in1k(pretrained: bool = False, **kwargs) -> VideoMambaPro:
    """The published code's name for VideoMambaPro-S."""
    return videomambapro_small(pretrained, **kwargs)


@register_model
def videomambapro_m16_in1k(pretrained: bool = False, **kwargs) -> VideoMambaPro:
    """The published code's name for VideoMambaPro-M."""
    return videomambapro_middle(pretrained, **kwargs)
