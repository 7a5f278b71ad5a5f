"""Which tokens the student of masked pretraining sees: five ways of drawing visible patches.

All functions return sorted int64 indices (b, 1 + visible) into the tokens of a clip: 0 is the class token, which is
always kept, and 1 + f n + j is patch j of frame f. The number of visible patches is the same for every clip, so that
batches stay rectangular. Counts and rules are those of VideoMamba (arXiv 2403.06977, section 3.4). Symbols:
    b clips, t frames (tubelets), h rows and w columns of patches, n = h w patches per frame
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class TokenGrid(NamedTuple):
    """Frames (tubelets), rows and columns of the patches of a clip."""

    frames: int
    rows: int
    columns: int

    @property
    def patches(self) -> int:
        """Patches per frame."""
        return self.rows * self.columns


def attention_mask(importance: Tensor, ratio: float, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw n - int(n ratio) patches of each frame without replacement, in proportion to their importance.

    Args:
        importance: (b, t, n), not negative; need not sum to 1.
        ratio: Share of the patches to hide, below 1.
        generator: Random numbers, on the device of `importance`.
    """
    clips, frames, patches = importance.shape
    # A softmax can underflow to 0, and a draw needs enough weights above 0.
    weights = importance.flatten(0, 1).float().clamp(min=torch.finfo(torch.float32).tiny)
    drawn = torch.multinomial(weights, _visible(patches, ratio), generator=generator).unflatten(0, (clips, frames))
    return _tokens(drawn + _first_patches(frames, patches, drawn.device))


def random_mask(
    clips: int, grid: TokenGrid, ratio: float, *, device=None, generator: torch.Generator | None = None
) -> Tensor:
    """Hide int(t n ratio) patches anywhere in each clip, so that the number of visible patches varies between frames.

    Args:
        clips: b.
        grid: Of the patches of a clip.
        ratio: Share of the patches to hide, below 1.
        device: Of the result.
        generator: Random numbers, on the same device.
    """
    total = grid.frames * grid.patches
    return _tokens(_draw((clips,), total, _visible(total, ratio), device, generator))


def tube_mask(
    clips: int, grid: TokenGrid, ratio: float, *, device=None, generator: torch.Generator | None = None
) -> Tensor:
    """Hide int(n ratio) places, the same ones in all frames of a clip; arguments as in `random_mask`."""
    places = _draw((clips, 1), grid.patches, _visible(grid.patches, ratio), device, generator)  # (b, 1, visible)
    return _tokens(places + _first_patches(grid.frames, grid.patches, device))


def tube_row_mask(
    clips: int, grid: TokenGrid, ratio: float, *, device=None, generator: torch.Generator | None = None
) -> Tensor:
    """Hide int(h ratio) whole rows of each frame, others in every frame; arguments as in `random_mask`."""
    rows = _draw((clips, grid.frames), grid.rows, _visible(grid.rows, ratio), device, generator)  # (b, t, visible)
    return _tokens(_patches_of_rows(rows + _first_patches(grid.frames, grid.rows, device), grid))


def random_row_mask(
    clips: int, grid: TokenGrid, ratio: float, *, device=None, generator: torch.Generator | None = None
) -> Tensor:
    """Hide t int(h ratio) whole rows anywhere among the t h rows of a clip; arguments as in `random_mask`."""
    visible = grid.frames * _visible(grid.rows, ratio)
    return _tokens(_patches_of_rows(_draw((clips,), grid.frames * grid.rows, visible, device, generator), grid))


MASKS: dict[str, Callable[..., Tensor]] = {
    "random": random_mask,
    "tube": tube_mask,
    "tube_row": tube_row_mask,
    "random_row": random_row_mask,
}
"""Masks that need no importance, by the value of --mask_type."""


def _visible(count: int, ratio: float) -> int:
    return count - int(count * ratio)


def _draw(shape: tuple[int, ...], of: int, count: int, device, generator: torch.Generator | None) -> Tensor:
    """Draw `count` of the numbers below `of` without replacement, `shape` times: (*shape, count)."""
    return torch.rand(*shape, of, device=device, generator=generator).argsort(-1)[..., :count]


def _first_patches(frames: int, per_frame: int, device) -> Tensor:
    """Return the number of the first patch, or row, of every frame: (t, 1)."""
    return torch.arange(0, frames * per_frame, per_frame, device=device).unsqueeze(-1)


def _patches_of_rows(rows: Tensor, grid: TokenGrid) -> Tensor:
    """Return the patches of rows (b, ...), which are counted through the clip: (b, ..., w)."""
    return rows.unsqueeze(-1) * grid.columns + torch.arange(grid.columns, device=rows.device)


def _tokens(patches: Tensor) -> Tensor:
    """Return the tokens of patches (b, ...), which are counted through the clip, sorted: (b, 1 + visible)."""
    return F.pad(1 + patches.flatten(1).sort(dim=1).values, (1, 0))
