"""Influence by distance: how the residual and the mask change the hidden attention, in numbers.

The two directions of a mixer are added, so a token reads itself twice and its diagonal counts twice. The mask of the
backward scan removes one of the two. The elemental residual adds what all tokens read from the ends of the sequence.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from explain.hidden_attention import summed_attention
from explain.scans import Scan
from mamba.mamba_ssm.ops.selective_scan.directions import Order


def influence(scans: Sequence[Scan], *, elemental_residual: bool, masked: bool) -> Tensor:
    """Compute how much each token reads from every other token through the states of a mixer, with given switches.

    This is the mean of |M| over channels, summed over the two directions. The skip D and the gate are ignored, because
    the switches do not affect them.

    Args:
        scans: Scans of one mixer.
        elemental_residual: Whether the scans start from their first token.
        masked: Whether the backward scan is masked.

    Returns:
        (batch, length, length), rows read from columns.
    """
    total = 0.0
    for scan in scans:
        hidden = masked and scan.order is Order.BACKWARD
        bare = scan._replace(D=None, z=None, elemental_residual=elemental_residual, masked=hidden)
        total = total + summed_attention(bare, absolute=True) / scan.u.shape[-1]
    return total


def by_distance(matrix: Tensor) -> Tensor:
    """Average a matrix (length, length) over all pairs of tokens at distance 0, 1, ..., length - 1: (length,)."""
    length = matrix.shape[-1]
    places = torch.arange(length, device=matrix.device)
    distance = (places[:, None] - places).abs().flatten()
    sums = torch.zeros(length, dtype=matrix.dtype, device=matrix.device).index_add(0, distance, matrix.flatten())
    return sums / torch.bincount(distance, minlength=length)
