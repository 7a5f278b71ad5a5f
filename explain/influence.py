"""Influence by distance: what the residual and the mask change in the hidden attention, in numbers.

Both directions of a mixer are added, so a token reads itself by both: its diagonal counts twice. The mask of the
backward scan leaves one of the two. The elemental residual adds the two ends of the sequence, as read by every token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from explain.hidden_attention import summed_attention
from explain.scans import Scan
from mamba.mamba_ssm.ops.selective_scan.directions import Order


def influence(scans: Sequence[Scan], *, elemental_residual: bool, masked: bool) -> Tensor:
    """How much each token reads of each other through the states of a mixer, were its switches set so.

    The mean over channels of |M|, the two directions added; the skip D and the gate, which no switch touches, are left
    out.

    Args:
        scans: of one mixer.
        elemental_residual: whether the scans start from their first token.
        masked: whether the backward scan is masked.

    Returns:
        (batch, length, length), reading token by row.
    """
    total = 0.0
    for scan in scans:
        hidden = masked and scan.order is Order.BACKWARD
        bare = scan._replace(D=None, z=None, elemental_residual=elemental_residual, masked=hidden)
        total = total + summed_attention(bare, absolute=True) / scan.u.shape[-1]
    return total


def by_distance(matrix: Tensor) -> Tensor:
    """Mean of `matrix` (length, length) over all pairs of tokens 0, 1, ... length - 1 apart: (length,)."""
    length = matrix.shape[-1]
    places = torch.arange(length, device=matrix.device)
    distance = (places[:, None] - places).abs().flatten()
    sums = torch.zeros(length, dtype=matrix.dtype, device=matrix.device).index_add(0, distance, matrix.flatten())
    return sums / torch.bincount(distance, minlength=length)
