"""The public functions of mamba_ssm, with its layout: channels first, time last.

They are thin wrappers of the operators used by the mixer. A `*_ref` function is the `*_fn` with backend "reference",
the loop over tokens in `selective_scan/reference.py`, which also explains the symbols.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from mamba.mamba_ssm.ops.causal_conv1d import causal_conv1d
from mamba.mamba_ssm.ops.selective_scan.dispatch import REFERENCE
from mamba.mamba_ssm.ops.selective_scan.reference import in_compute_type, scan_direction, scan_source, step_size
from mamba.mamba_ssm.ops.selective_scan.registration import bidirectional_scan

__all__ = [
    "bimamba_inner_fn",
    "bimamba_inner_ref",
    "mamba_inner_fn",
    "mamba_inner_fn_no_out_proj",
    "mamba_inner_ref",
    "selective_scan_fn",
    "selective_scan_ref",
    "selective_scan_ref_sub",
]


def selective_scan_fn(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    delta_softplus=False,
    return_last_state=False,
    *,
    elemental_residual=True,
    masked=False,
    backend=None,
):
    """Scan forward in time: y_t = (<C_t, h_t> + D u_t) silu(z_t), h_t = exp(d_t A) h_{t-1} + d_t B_t u_t.

    Args:
        u: (batch, dim, length).
        delta: (batch, dim, length).
        A: (dim, state), real or complex.
        B: (dim, state), (batch, state, length) or (batch, groups, state, length). If A is complex, a constant B is
            complex, otherwise B is real with 2 * length entries, real and imaginary parts alternating.
        C: As B.
        D: (dim).
        z: (batch, dim, length).
        delta_bias: (dim).
        delta_softplus: Whether d is softplus(delta + delta_bias) or delta + delta_bias.
        return_last_state: Also return the state that the last token reads, (batch, dim, state), computed by the loop
            over tokens. Only backend "reference" computes gradients through it.
        elemental_residual: Whether h_{-1} is u_0 or 0.
        masked: Whether y_t reads h_t - d_t B_t u_t (nothing at the first token) instead of h_t.
        backend: One of `available_backends()`; None selects one automatically. Complex A uses the reference.

    Returns:
        out (batch, dim, length), u's type, or (out, last_state); computed in float32, or float64 for float64 input.
    """
    B, C = _same_groups(*(_matrix(matrix, u, A.is_complex()) for matrix in (B, C)))
    u, delta = u.mT, delta.mT
    z = None if z is None else z.mT
    switches: dict[str, Any] = dict(elemental_residual=elemental_residual, masked=masked, backend=backend)
    out = bidirectional_scan(u, delta, A, None, B, C, D, z, delta_bias, delta_softplus=delta_softplus, **switches).mT
    if not return_last_state:
        return out
    with torch.set_grad_enabled(torch.is_grad_enabled() and backend == REFERENCE):
        u, B, C = (in_compute_type(t) for t in (u, B, C))
        d = step_size(in_compute_type(delta), in_compute_type(delta_bias), delta_softplus)
        return out, scan_direction(u, d, A, B, C, elemental_residual, masked)[1]


def mamba_inner_fn_no_out_proj(
    xz,
    conv1d_weight,
    conv1d_bias,
    x_proj_weight,
    delta_proj_weight,
    A,
    B=None,
    C=None,
    D=None,
    delta_bias=None,
    B_proj_bias=None,
    C_proj_bias=None,
    delta_softplus=True,
    *,
    elemental_residual=True,
    masked=False,
    scan_input="conv",
    backend=None,
):
    """Compute `mamba_inner_fn` without the output projection: (batch, dim, length)."""
    weights = (conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight)
    u, delta, B, C, z = _scan_inputs(xz, weights, A, B, C, B_proj_bias, C_proj_bias, scan_input, backend)
    switches: dict[str, Any] = dict(elemental_residual=elemental_residual, masked=masked, backend=backend)
    return bidirectional_scan(u, delta, A, None, B, C, D, z, delta_bias, delta_softplus=delta_softplus, **switches).mT


def mamba_inner_fn(
    xz,
    conv1d_weight,
    conv1d_bias,
    x_proj_weight,
    delta_proj_weight,
    out_proj_weight,
    out_proj_bias,
    A,
    B=None,
    C=None,
    D=None,
    delta_bias=None,
    B_proj_bias=None,
    C_proj_bias=None,
    delta_softplus=True,
    *,
    elemental_residual=True,
    masked=False,
    scan_input="conv",
    backend=None,
):
    """Compute a Mamba block after its input projection: convolution, SiLU, projections, scan, gate, output projection.

    Args:
        xz: Input x of the scan and gate z, (batch, 2 * dim, length).
        conv1d_weight: (dim, 1, width).
        conv1d_bias: (dim).
        x_proj_weight: Projection from x to delta, B and C, (rank + 2 * state, dim).
        delta_proj_weight: (dim, rank).
        out_proj_weight: (d_model, dim).
        out_proj_bias: (d_model).
        A: (dim, state).
        B: Constant (dim, state), or None to compute it from x.
        C: As B.
        D: (dim).
        delta_bias: (dim).
        B_proj_bias: (state), added to B from x_proj.
        C_proj_bias: (state), added to C from x_proj.
        delta_softplus: As in `selective_scan_fn`.
        elemental_residual: As in `selective_scan_fn`.
        masked: As in `selective_scan_fn`.
        scan_input: "conv": the scan reads the convolved x; "raw": x itself, as in the published code.
        backend: As in `selective_scan_fn`.

    Returns:
        (batch, length, d_model).
    """
    weights = (conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight)
    scanned = (A, B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus)
    switches: dict[str, Any] = dict(
        elemental_residual=elemental_residual, masked=masked, scan_input=scan_input, backend=backend
    )
    y = mamba_inner_fn_no_out_proj(xz, *weights, *scanned, **switches)
    return F.linear(y.mT, out_proj_weight, out_proj_bias)


def bimamba_inner_fn(
    xz,
    conv1d_weight,
    conv1d_bias,
    x_proj_weight,
    delta_proj_weight,
    out_proj_weight,
    out_proj_bias,
    A,
    A_b,
    B=None,
    C=None,
    D=None,
    delta_bias=None,
    B_proj_bias=None,
    C_proj_bias=None,
    delta_softplus=True,
    *,
    elemental_residual=True,
    masked_backward=True,
    scan_input="conv",
    backend=None,
):
    """Compute VideoMambaPro's block: the sum of the forward scan (A) and the masked backward scan (A_b).

    Both directions share delta, B, C, D and z; arguments and result are those of `mamba_inner_fn`. The backward scan
    processes the flipped sequence, so its elemental residual starts from the last token.
    """
    weights = (conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight)
    u, delta, B, C, z = _scan_inputs(xz, weights, A, B, C, B_proj_bias, C_proj_bias, scan_input, backend)
    switches: dict[str, Any] = dict(
        elemental_residual=elemental_residual, masked_backward=masked_backward, backend=backend
    )
    y = bidirectional_scan(u, delta, A, A_b, B, C, D, z, delta_bias, delta_softplus=delta_softplus, **switches)
    return F.linear(y, out_proj_weight, out_proj_bias)


selective_scan_ref = partial(selective_scan_fn, backend=REFERENCE)
selective_scan_ref_sub = partial(selective_scan_fn, masked=True, backend=REFERENCE)
mamba_inner_ref = partial(mamba_inner_fn, backend=REFERENCE)
bimamba_inner_ref = partial(bimamba_inner_fn, backend=REFERENCE)


def _scan_inputs(xz, weights, A, B, C, B_proj_bias, C_proj_bias, scan_input, backend):
    """Return u, delta, B, C and z of a Mamba block, channels last."""
    conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight = weights
    x, z = xz.mT.chunk(2, dim=-1)  # (batch, length, dim) each
    convolved = causal_conv1d(x, conv1d_weight.squeeze(1), conv1d_bias, silu=True, backend=backend)
    projected = F.linear(convolved, x_proj_weight)
    at = delta_proj_weight.shape[1]
    delta = F.linear(projected[..., :at], delta_proj_weight)  # (batch, length, dim)
    matrices = []
    for given, bias in ((B, B_proj_bias), (C, C_proj_bias)):
        if given is not None:
            matrices.append(_matrix(given, xz, A.is_complex()))
            continue
        entries = A.shape[-1] * (2 if A.is_complex() else 1)
        matrix = projected[..., at : at + entries].unsqueeze(2)  # (batch, length, 1, entries)
        matrix = matrix if bias is None else matrix + bias
        matrices.append(_from_pairs(matrix) if A.is_complex() else matrix)
        at += entries
    return scan_source(x, convolved, scan_input), delta, *_same_groups(*matrices), z


def _matrix(matrix: Tensor, u: Tensor, complex_pairs: bool) -> Tensor:
    """Convert B or C of any form to (batch, length, groups, state), for u (batch, ..., length).

    Constant matrices have one group per channel.
    """
    if matrix.dim() == 2:
        return matrix.expand(u.shape[0], u.shape[-1], -1, -1)
    grouped = matrix.unsqueeze(1) if matrix.dim() == 3 else matrix
    if complex_pairs:
        return _from_pairs(rearrange(grouped, "b g n (l two) -> b l g (n two)", two=2))
    return rearrange(grouped, "b g n l -> b l g n")


def _from_pairs(matrix: Tensor) -> Tensor:
    """Convert alternating real and imaginary parts (..., 2 * state) to complex numbers (..., state)."""
    return torch.view_as_complex(matrix.unflatten(-1, (-1, 2)).contiguous())


def _same_groups(B: Tensor, C: Tensor) -> list[Tensor]:
    groups = max(B.shape[2], C.shape[2])
    return [m if m.shape[2] == groups else m.repeat_interleave(groups // m.shape[2], dim=2) for m in (B, C)]
