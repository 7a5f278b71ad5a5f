"""Patch embedding: a clip to tokens, one per tubelet of tubelet_size x patch x patch pixels."""

from typing import Any

import torch.nn as nn
from torch import Tensor

from common.frame_size import FrameSize, as_pair
from common.settings import as_typed
from models.image_stem import ImageStem


class PatchEmbed(nn.Module):
    """Splits a clip into non-overlapping tubelets and projects each to a token (VideoMamba, section 3.2).

    Args:
        img_size: height and width of the frames in pixels, or one number for squares. patch_size: of a patch.
        tubelet_size: frames of a tubelet.
        in_chans: channels of a frame. embed_dim: width of the tokens.
        stem: image model whose maps are projected instead of pixels, one cell per patch; empty for none.
    """

    def __init__(
        self,
        img_size: FrameSize,
        patch_size: int,
        tubelet_size: int,
        in_chans: int,
        embed_dim: int,
        stem: str = "",
    ):
        super().__init__()
        height, width = as_pair(img_size)
        if height % patch_size or width % patch_size:
            raise ValueError(f"img_size {as_typed(img_size)} must be a multiple of patch_size {patch_size}")
        self.img_size = (height, width)
        self.patch_size = patch_size
        self.tubelet_size = tubelet_size
        self.grid_size = (height // patch_size, width // patch_size)
        self.patches_per_frame = self.grid_size[0] * self.grid_size[1]
        self.stem: Any = ImageStem(stem, patch_size, (height, width)) if stem else None
        side, channels = (1, self.stem.out_chans) if stem else (patch_size, in_chans)
        kernel = (tubelet_size, side, side)
        self.proj = nn.Conv3d(channels, embed_dim, kernel_size=kernel, stride=kernel)

    def grid(self, clips: Tensor) -> tuple[int, int, int]:
        """Return the tubelets in time, rows and columns that clips (batch, channels, frames, height, width) have.

        Raises:
            ValueError: the clips have other dimensions, or sides that tubelets do not fill.
        """
        if clips.dim() != 5:
            raise ValueError(
                f"clips must be (batch, channels, frames, height, width), got {tuple(clips.shape)}; "
                "an image is a clip of one frame"
            )
        sizes = dict(frames=self.tubelet_size, height=self.patch_size, width=self.patch_size)
        for (name, unit), length in zip(sizes.items(), clips.shape[2:], strict=True):
            if length < unit or length % unit:
                kind = "tubelet_size" if name == "frames" else "patch_size"
                raise ValueError(f"clips of {name} {length}: it must be a multiple of the model's {kind} {unit}")
        frames, height, width = clips.shape[2:]
        return frames // self.tubelet_size, height // self.patch_size, width // self.patch_size

    def forward(self, clips: Tensor) -> Tensor:
        """(batch, channels, frames, height, width) to (batch, frames / tubelet, patches, embed_dim)."""
        pixels = clips if self.stem is None else self.stem(clips)
        return self.proj(pixels).flatten(3).permute(0, 2, 3, 1)  # (b, d, t, h w) to (b, t, h w, d)
