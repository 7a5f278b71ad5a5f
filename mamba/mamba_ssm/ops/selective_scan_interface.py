"""The names that mamba_ssm users import, with mamba_ssm's layouts: channels first, time last.

All are written in terms of the operators that the mixer uses. A `*_ref` function is its `*_fn` by the backend
"reference", the loop over tokens in `selective_scan/reference.py`; that file has the glossary of symbols, too.
"""

from functools import partial

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
        u, delta, z: (batch, dim, length).
        A: (dim, state), real or complex.
        B, C: (dim, state), (batch, state, length) or (batch, groups, state, length). With a complex A, constant B and
            C are complex, the others real with 2 * length entries, real and imaginary parts in turn.
        D, delta_bias: (dim).
        delta_softplus: whether d = softplus(delta + delta_bias) or delta + delta_bias.
        return_last_state: also return what the last token reads of the state, (batch, dim, state), by the loop over
            tokens. Gradients flow into it with the backend "reference" alone.
        elemental_residual: whether h_{-1} is u_0 or 0.
        masked: whether y_t reads h_t - d_t B_t u_t (nothing at the first token) in the place of h_t.
        backend: one of `available_backends()`; None chooses. A complex A is served by the reference.

    Returns:
        out (batch, dim, length), u's type, or (out, last_state). Arithmetic is float32, or float64 for float64 input.
    """
    B, C = _same_groups(*(_matrix(matrix, u, A.is_complex()) for matrix in (B, C)))
    u, delta = u.mT, delta.mT
    z = None if z is None else z.mT
    out = bidirectional_scan(
        u, delta, A, None, B, C, D, z, delta_bias,
        delta_softplus=delta_softplus, elemental_residual=elemental_residual, masked=masked, backend=backend,
    ).mT  # fmt: skip
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
    """Compute `mamba_inner_fn` without its output projection: (batch, dim, length)."""
    weights = (conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight)
    u, delta, B, C, z = _scan_inputs(xz, *weights, A, B, C, B_proj_bias, C_proj_bias, scan_input, backend)
    return bidirectional_scan(
        u, delta, A, None, B, C, D, z, delta_bias,
        delta_softplus=delta_softplus, elemental_residual=elemental_residual, masked=masked, backend=backend,
    ).mT  # fmt: skip


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
        xz: (batch, 2 * dim, length), the scan's input x and the gate z.
        conv1d_weight: (dim, 1, width).
        conv1d_bias: (dim).
        x_proj_weight: (rank + 2 * state, dim), delta, B and C from x.
        delta_proj_weight: (dim, rank).
        out_proj_weight: (d_model, dim).
        out_proj_bias: (d_model).
        A: (dim, state).
        B, C: constants (dim, state), or None where they come from x.
        D, delta_bias: (dim).
        B_proj_bias, C_proj_bias: (state), added to what x_proj gives.
        delta_softplus, elemental_residual, masked, backend: as in `selective_scan_fn`.
        scan_input: "conv", the scan reads the convolved x; "raw", x itself, as published.

    Returns:
        (batch, length, d_model).
    """
    y = mamba_inner_fn_no_out_proj(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias,
        B_proj_bias, C_proj_bias, delta_softplus,
        elemental_residual=elemental_residual, masked=masked, scan_input=scan_input, backend=backend,
    )  # fmt: skip
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
    """Compute VideoMambaPro's block: the forward scan (A) plus the flipped backward scan (A_b), which is masked.

    Both directions share delta, B, C, D and z; arguments and result as in `mamba_inner_fn`. The backward scan runs
    over the flipped sequence, so its elemental residual starts from the last token.
    """
    weights = (conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight)
    u, delta, B, C, z = _scan_inputs(xz, *weights, A, B, C, B_proj_bias, C_proj_bias, scan_input, backend)
    y = bidirectional_scan(
        u, delta, A, A_b, B, C, D, z, delta_bias, delta_softplus=delta_softplus,
        elemental_residual=elemental_residual, masked_backward=masked_backward, backend=backend,
    )  # fmt: skip
    return F.linear(y, out_proj_weight, out_proj_bias)


selective_scan_ref = partial(selective_scan_fn, backend=REFERENCE)
selective_scan_ref_sub = partial(selective_scan_fn, masked=True, backend=REFERENCE)
mamba_inner_ref = partial(mamba_inner_fn, backend=REFERENCE)
bimamba_inner_ref = partial(bimamba_inner_fn, backend=REFERENCE)


def _scan_inputs(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, B_proj_bias, C_proj_bias,
    scan_input, backend,
):  # fmt: skip
    """Return u, delta, B, C and z of a Mamba block, channels last."""
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
    """Bring B or C of any form beside u (batch, ..., length) to (batch, length, groups, state).

    Constant matrices have a group for every channel.
    """
    if matrix.dim() == 2:
        return matrix.expand(u.shape[0], u.shape[-1], -1, -1)
    grouped = matrix.unsqueeze(1) if matrix.dim() == 3 else matrix
    if complex_pairs:
        return _from_pairs(rearrange(grouped, "b g n (l two) -> b l g (n two)", two=2))
    return rearrange(grouped, "b g n l -> b l g n")


def _from_pairs(matrix: Tensor) -> Tensor:
    """Real and imaginary parts in turn (..., 2 * state) as complex numbers (..., state)."""
    return torch.view_as_complex(matrix.unflatten(-1, (-1, 2)).contiguous())


def _same_groups(B: Tensor, C: Tensor) -> list[Tensor]:
    groups = max(B.shape[2], C.shape[2])
    return [m if m.shape[2] == groups else m.repeat_interleave(groups // m.shape[2], dim=2) for m in (B, C)]
