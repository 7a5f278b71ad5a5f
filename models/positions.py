"""Interpolation of position embeddings to other sizes: bicubic in space, linear in time."""

import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor


def resize_spatial(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Interpolate spatial positions to another grid.

    Args:
        positions: (1, 1 + rows columns, d), those of the class token first, which are not changed.
        old: Rows and columns of patches of `positions`.
        new: Rows and columns of the result.

    Returns:
        (1, 1 + rows columns, d); `positions` itself if the grid is the same.
    """
    if old == new:
        return positions
    return resample_abs_pos_embed(positions, list(new), list(old), num_prefix_tokens=1, antialias=False)


def resize_temporal(positions: Tensor, tubelets: int) -> Tensor:
    """Interpolate temporal positions (1, t, d) to (1, tubelets, d); return them unchanged if t is the same."""
    # A number that torch.export leaves open is not compared, because that would fix it.
    if isinstance(tubelets, int) and positions.shape[1] == tubelets:
        return positions
    return F.interpolate(positions.mT, size=tubelets, mode="linear", align_corners=False).mT
