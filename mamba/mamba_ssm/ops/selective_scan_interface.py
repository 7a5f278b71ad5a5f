"""The names that mamba_ssm users import: the reference functions (`*_ref`) and their fast forms (`*_fn`).

Layouts are mamba_ssm's, channels first, time last. The `*_ref` functions and the glossary of symbols stand in
`selective_scan/reference.py`; the `*_fn` functions go to a backend through `selective_scan/registration.py`.
"""

import functools
import logging

import torch
import torch.nn.functional as F
from einops import rearrange

from mamba.mamba_ssm.ops.causal_conv1d import causal_conv1d
from mamba.mamba_ssm.ops.selective_scan.dispatch import REFERENCE, requested_backend
from mamba.mamba_ssm.ops.selective_scan.reference import (
    bimamba_inner_ref,
    mamba_inner_ref,
    mamba_inner_ref_no_out_proj,
    scan_source,
    selective_scan_ref,
    selective_scan_ref_sub,
)
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

logger = logging.getLogger(__name__)


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
    """`selective_scan_ref`, or with `masked` `selective_scan_ref_sub`, by the fastest backend that is available.

    Arguments and result as there. A complex A and `return_last_state` are served by the reference loop; no gradient
    flows into the last state. `backend` is one of `available_backends()`; None chooses.
    """
    reference = selective_scan_ref_sub if masked else selective_scan_ref
    scan = (u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    if A.is_complex() or requested_backend(backend) == REFERENCE:
        if A.is_complex():
            _log_complex_once()
        return reference(*scan, return_last_state, elemental_residual=elemental_residual)
    B, C = _channels_last_groups(B, C, u)
    u, delta = (rearrange(t, "b d l -> b l d") for t in (u, delta))
    z = None if z is None else rearrange(z, "b d l -> b l d")
    out = bidirectional_scan(
        u, delta, A, None, B, C, D, z, delta_bias,
        delta_softplus=delta_softplus, elemental_residual=elemental_residual, masked=masked, backend=backend,
    )  # fmt: skip
    out = rearrange(out, "b l d -> b d l")
    if not return_last_state:
        return out
    with torch.no_grad():
        return out, reference(*scan, True, elemental_residual=elemental_residual)[1]


@functools.cache
def _log_complex_once():
    logger.warning("complex A: the scan runs as the reference loop over tokens, the fast backends are real")


def _channels_last_groups(B, C, u):
    """B and C as (batch, length, groups, state), groups equal; constant matrices have a group a channel."""
    batch, dim, length = u.shape
    forms = []
    for matrix in (B, C):
        if matrix.dim() == 2:
            forms.append(matrix.expand(batch, length, -1, -1))
        else:
            grouped = matrix.unsqueeze(1) if matrix.dim() == 3 else matrix
            forms.append(rearrange(grouped, "b g n l -> b l g n"))
    groups = max(matrix.shape[2] for matrix in forms)
    return [m if m.shape[2] == groups else m.repeat_interleave(groups // m.shape[2], dim=2) for m in forms]


def _fused_inner(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, A_b, B, C, D, delta_bias,
    B_proj_bias, C_proj_bias, delta_softplus, *, elemental_residual, masked, masked_backward, scan_input, backend,
):  # fmt: skip
    """The block without its output projection, channels last inside: (batch, length, dim)."""
    x, z = rearrange(xz, "b d l -> b l d").chunk(2, dim=-1)
    convolved = causal_conv1d(x, rearrange(conv1d_weight, "d 1 w -> d w"), conv1d_bias, silu=True, backend=backend)
    rank, state = delta_proj_weight.shape[1], A.shape[-1]
    projected = F.linear(convolved, x_proj_weight)
    delta = F.linear(projected[..., :rank], delta_proj_weight)
    matrices, at = [], rank
    for given, bias in ((B, B_proj_bias), (C, C_proj_bias)):
        if given is None:
            given = projected[..., at : at + state]
            given = (given if bias is None else given + bias).unsqueeze(2)
            at += state
        else:
            given = given.expand(*x.shape[:2], -1, -1)
        matrices.append(given)
    groups = max(m.shape[2] for m in matrices)
    B, C = (m.expand(-1, -1, groups, -1) for m in matrices)
    return bidirectional_scan(
        scan_source(x, convolved, scan_input), delta, A, A_b, B, C, D, z, delta_bias, delta_softplus=delta_softplus,
        elemental_residual=elemental_residual, masked=masked, masked_backward=masked_backward, backend=backend,
    )  # fmt: skip


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
    """`mamba_inner_ref` without its output projection, by the fast backends; returns (batch, dim, length)."""
    if A.is_complex() or requested_backend(backend) == REFERENCE:
        return mamba_inner_ref_no_out_proj(
            xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias,
            B_proj_bias, C_proj_bias, delta_softplus,
            elemental_residual=elemental_residual, masked=masked, scan_input=scan_input,
        )  # fmt: skip
    y = _fused_inner(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, None, B, C, D, delta_bias,
        B_proj_bias, C_proj_bias, delta_softplus, elemental_residual=elemental_residual,
        masked=masked, masked_backward=False, scan_input=scan_input, backend=backend,
    )  # fmt: skip
    return rearrange(y, "b l d -> b d l")


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
    """`mamba_inner_ref` by the fast backends; arguments and result as there, `backend` as in `selective_scan_fn`."""
    y = mamba_inner_fn_no_out_proj(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, B, C, D, delta_bias,
        B_proj_bias, C_proj_bias, delta_softplus,
        elemental_residual=elemental_residual, masked=masked, scan_input=scan_input, backend=backend,
    )  # fmt: skip
    return F.linear(rearrange(y, "b d l -> b l d"), out_proj_weight, out_proj_bias)


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
    """`bimamba_inner_ref` by the fast backends, both directions in one call; `backend` as in `selective_scan_fn`."""
    if A.is_complex() or requested_backend(backend) == REFERENCE:
        return bimamba_inner_ref(
            xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, A_b,
            B, C, D, delta_bias, B_proj_bias, C_proj_bias, delta_softplus,
            elemental_residual=elemental_residual, masked_backward=masked_backward, scan_input=scan_input,
        )  # fmt: skip
    y = _fused_inner(
        xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, A, A_b, B, C, D, delta_bias,
        B_proj_bias, C_proj_bias, delta_softplus, elemental_residual=elemental_residual, masked=False,
        masked_backward=masked_backward, scan_input=scan_input, backend=backend,
    )  # fmt: skip
    return F.linear(y, out_proj_weight, out_proj_bias)
