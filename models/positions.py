"""Position embeddings for other grids than they were trained on: spatial ones bicubically, temporal ones linearly."""

import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor


def resize_spatial(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Interpolate the positions of a square grid, (1, 1 + side^2, d) to (1, 1 + rows columns, d).

    The first position is the class token's and stays as it is. A grid of the same size is returned itself.
    """
    if rows == columns and positions.shape[1] == 1 + rows * columns:
        return positions
    return resample_abs_pos_embed(positions, [rows, columns], num_prefix_tokens=1, antialias=False)


def resize_temporal(positions: Tensor, tubelets: int) -> Tensor:
    """Interpolate the positions of the times, (1, t, d) to (1, tubelets, d); as many are returned themselves."""
    if positions.shape[1] == tubelets:
        return positions
    return F.interpolate(positions.mT, size=tubelets, mode="linear", align_corners=False).mT
