"""Other models for comparison, small enough for two CPU cores; every model takes clips (N, 3, T, H, W).

All have random weights: narrower versions of torchvision's video networks, VideoMAE's vision transformer from
transformers, and networks that classify single frames and average their logits.
"""

from collections.abc import Callable

import timm
from torch import Tensor, nn
from torchvision.models import video

import models.videomambapro  # noqa: F401  registers VideoMambaPro with timm

OUR_SWITCHES = dict(bimamba_type="v1", elemental_residual=True, masked_backward=True, dt_init="mamba")
VIT = dict(hidden_size=96, num_hidden_layers=6, num_attention_heads=3, intermediate_size=384)


class FrameAverage(nn.Module):
    """A classifier of images, applied to every frame; the mean of its logits."""

    def __init__(self, model: nn.Module, *, clips: bool = False):
        """Wrap a model of images (N, 3, H, W) or, with `clips`, of clips of one frame."""
        super().__init__()
        self.model, self.clips = model, clips

    def forward(self, clips: Tensor) -> Tensor:
        """Classify clips (N, 3, T, H, W)."""
        frames = clips.transpose(1, 2).flatten(0, 1)  # (N T, 3, H, W)
        logits = self.model(frames.unsqueeze(2) if self.clips else frames)
        return logits.unflatten(0, (len(clips), -1)).mean(1)


class FramesFirst(nn.Module):
    """A model of the transformers library, which takes (N, T, 3, H, W) and returns its logits in an object."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, clips: Tensor) -> Tensor:
        """Classify clips (N, 3, T, H, W)."""
        return self.model(clips.transpose(1, 2).contiguous()).logits


def narrow(build: Callable[..., nn.Module], divisor: int, num_classes: int) -> nn.Module:
    """Build a convolutional network with all widths divided by `divisor`, except input channels and classes.

    Args:
        build: Function of num_classes; the widths of its network are multiples of `divisor`.
        divisor: Divisor of the widths; the computation falls with its square.
        num_classes: Number of classes.
    """
    model = build(num_classes=num_classes * divisor)  # divided like the widths
    for name, module in list(model.named_modules()):
        if (thin := _thinner(module, divisor)) is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, thin)
    return model


def _thinner(module: nn.Module, divisor: int) -> nn.Module | None:
    """Return the module with fewer channels, or None if it has no channels."""
    if isinstance(module, nn.Conv3d):
        channels = module.in_channels if module.in_channels == 3 else module.in_channels // divisor
        return nn.Conv3d(
            channels, module.out_channels // divisor, module.kernel_size, module.stride, module.padding,
            bias=module.bias is not None,
        )  # fmt: skip
    if isinstance(module, nn.BatchNorm3d):
        return nn.BatchNorm3d(module.num_features // divisor, module.eps, module.momentum)
    if isinstance(module, nn.Linear):
        return nn.Linear(module.in_features // divisor, module.out_features // divisor)
    return None


def _s3d(num_classes: int) -> nn.Module:
    model = narrow(video.s3d, 2, num_classes)
    model.avgpool = nn.AdaptiveAvgPool3d(1)  # the original one needs 224 pixels and 16 frames
    return model


def _vit(num_classes: int, frames: int, size: int) -> nn.Module:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    config = VideoMAEConfig(
        image_size=size, num_frames=frames, num_labels=num_classes, attn_implementation="sdpa", **VIT
    )
    return FramesFirst(VideoMAEForVideoClassification(config))


def _nano(num_classes: int, frames: int, size: int) -> nn.Module:
    return timm.create_model(
        "videomambapro_nano", num_classes=num_classes, num_frames=frames, img_size=size, **OUR_SWITCHES
    )


OURS, STATIC = "VideoMambaPro-nano", "VideoMambaPro-nano, single frames"
PEERS: dict[str, Callable[[int, int, int], nn.Module]] = {
    OURS: _nano,
    STATIC: lambda classes, frames, size: FrameAverage(_nano(classes, 1, size), clips=True),
    "ResNet-10, single frames": lambda classes, *_: FrameAverage(timm.create_model("resnet10t", num_classes=classes)),
    "VideoMAE's ViT, 96 x 6": _vit,
    "r3d_18, widths / 8": lambda classes, *_: narrow(video.r3d_18, 8, classes),
    "mc3_18, widths / 8": lambda classes, *_: narrow(video.mc3_18, 8, classes),
    "s3d, widths / 2": lambda classes, *_: _s3d(classes),
}
"""Name -> (classes, frames, pixels) -> model."""


def build_peer(name: str, num_classes: int, frames: int, size: int) -> nn.Module:
    """Build one of `PEERS` with random weights.

    Raises:
        ImportError: VideoMAE's transformer needs the transformers library.
    """
    return PEERS[name](num_classes, frames, size)


def parameters(model: nn.Module) -> int:
    """Count the trainable parameters of a model."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
