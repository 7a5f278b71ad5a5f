"""The hidden attention of a selective scan: the matrix of its map from tokens to outputs.

For fixed gates, y_t = sum over s of M[t, s] u_s in each channel, where for s <= t in the order of the scan

    M[t, s] = silu(z_t) (<C_t, (a_t ... a_{s+1}) d_s B_s> + [s = 0, residual] <C_t, a_t ... a_0> + [s = t] D)

and a masked scan omits the contributions of state and residual to the diagonal. That a selective scan is an implicit
attention was observed by Ali, Zimerman and Wolf (arXiv 2403.01590); residual and mask are those of VideoMambaPro.

A product of decays is exp(A (d_{s+1} + ... + d_t)). The sums are differences of cumulative sums in float64, because
in float32 those of a long sequence would leave too few digits for differences between neighbours.

No function stores the matrices of all channels: `channel_matrices` computes some, `summed_attention` sums over them in
chunks, and `attention_rows` returns the row of one token for all channels.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from explain.scans import Scan
from mamba.mamba_ssm.ops.selective_scan.directions import in_order, original_order

CHUNK_ELEMENTS = 1 << 22  # of (batch, channels, length, length) tensors: 16 MiB each in float32


def channel_matrices(scan: Scan, channels: slice) -> Tensor:
    """Compute M of some channels: (batch, channels, length, length), rows read from columns."""
    scan = _in_scan_order(_take_channels(scan, channels))
    length, dim = scan.u.shape[1:]
    totals = scan.d.double().cumsum(1).mT
    between = totals.unsqueeze(-1) - totals.unsqueeze(-2)
    between = between.clamp_(min=0).to(scan.u.dtype)
    entering = torch.einsum("bsd,bsn->bdsn", scan.d, scan.B)
    matrix = torch.zeros_like(between)
    for n, rates in enumerate(scan.A.unbind(1)):
        product = torch.exp(between * rates[:, None, None])
        product *= entering[..., n].unsqueeze(2)
        product *= scan.C[:, None, :, n, None]
        matrix += product
    matrix = matrix.tril_(-1 if scan.masked else 0)
    matrix[..., 0] += _residual_column(scan)
    if scan.D is not None:
        torch.diagonal(matrix, dim1=-2, dim2=-1).add_(scan.D[:, None])
    if scan.z is not None:
        matrix *= F.silu(scan.z).mT.unsqueeze(-1)
    return original_order(original_order(matrix, scan.order, dim=-1), scan.order, dim=-2)


def summed_attention(
    scan: Scan, *, reading: Tensor | None = None, read: Tensor | None = None, absolute: bool = False
) -> Tensor:
    """Compute the weighted sum of M over the channels: (batch, length, length).

    Args:
        scan: The scan.
        reading: Weights of the rows of M, (batch, length, dim), or None for 1: entry (t, s) sums
            reading[t] M[t, s] read[s]. With a logit's gradient as `reading` and u as `read`, this is the contribution
            of token s to the logit through token t.
        read: Weights of the columns of M, (batch, length, dim), or None for 1.
        absolute: Sum absolute values.
    """
    total = 0.0
    for channels in _chunks(scan):
        matrix = channel_matrices(scan, channels)
        if reading is not None:
            matrix *= reading[..., channels].mT.unsqueeze(-1)
        if read is not None:
            matrix *= read[..., channels].mT.unsqueeze(-2)
        total = total + (matrix.abs_() if absolute else matrix).sum(1)
    return total


def attention_rows(scan: Scan, token: int) -> Tensor:
    """Compute the contribution of every token to the output of `token`, for all channels: (batch, length, dim)."""
    scan = _in_scan_order(scan)
    steps = torch.arange(scan.u.shape[1], device=scan.u.device)
    t = original_order(steps, scan.order, dim=0)[token].item()
    totals = scan.d.double().cumsum(1)
    between = (totals[:, t : t + 1] - totals[:, : t + 1]).to(scan.u.dtype)
    rows = torch.zeros_like(scan.u)
    visible = t if scan.masked else t + 1
    for n, rates in enumerate(scan.A.unbind(1)):
        product = torch.exp(between * rates) * scan.d[:, : t + 1] * scan.B[:, : t + 1, n, None]
        rows[:, :visible] += (product * scan.C[:, t : t + 1, n, None])[:, :visible]
    rows[:, 0] += _residual_column(scan)[..., t]
    if scan.D is not None:
        rows[:, t] += scan.D
    if scan.z is not None:
        rows *= F.silu(scan.z[:, t : t + 1])
    return original_order(rows, scan.order)


def _residual_column(scan: Scan) -> Tensor:
    """Compute what each token reads from the first one by the elemental residual: (batch, dim, length)."""
    totals = scan.d.double().cumsum(1).to(scan.u.dtype)
    column = torch.zeros_like(totals)
    if scan.elemental_residual:
        for n, rates in enumerate(scan.A.unbind(1)):
            column += scan.C[..., n, None] * torch.exp(totals * rates)
        if scan.masked:
            column[:, 0] = 0.0
    return column.mT


def _take_channels(scan: Scan, channels: slice) -> Scan:
    skip = None if scan.D is None else scan.D[channels]
    gate = None if scan.z is None else scan.z[..., channels]
    return scan._replace(u=scan.u[..., channels], d=scan.d[..., channels], A=scan.A[channels], D=skip, z=gate)


def _in_scan_order(scan: Scan) -> Scan:
    """Arrange the tensors in the order of the scan; `order` is kept for inverting it later."""
    tensors = {name: getattr(scan, name) for name in ("u", "d", "B", "C", "z")}
    return scan._replace(**{name: None if t is None else in_order(t, scan.order) for name, t in tensors.items()})


def _chunks(scan: Scan) -> Iterator[slice]:
    """Yield slices of the channels whose matrices have about CHUNK_ELEMENTS elements."""
    batch, length, dim = scan.u.shape
    step = max(1, CHUNK_ELEMENTS // (batch * length * length))
    return (slice(begin, begin + step) for begin in range(0, dim, step))
