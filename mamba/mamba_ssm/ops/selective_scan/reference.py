"""Backend "reference": the readable definition of the scan, a loop over tokens that also supports complex A.

Symbols of the paper (arXiv 2406.19006, section 3); layouts are channels last:
    u      input tokens                        delta, d   step size, before and after bias and softplus
    A, B, C, D   state space matrices          h          hidden state, `state` values per channel
    z      gate                                A_b        A of the backward (time-flipped) scan
There are two changes to Mamba: the elemental residual (h_{-1} = u_0 instead of 0) and the masked backward scan, in
which a token's own input enters the state but is not read by the token itself.
"""

from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from mamba.mamba_ssm.variants import SCAN_INPUTS

NAME = "reference"
Given = TypeVar("Given", bound=Tensor | None)


def unavailable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None: plain PyTorch supports every device and type."""
    return None


def scan_direction(
    u: Tensor, d: Tensor, A: Tensor, B: Tensor, C: Tensor, elemental_residual: bool, masked: bool
) -> tuple[Tensor, Tensor]:
    """Scan the tokens in order; all backends are tested against this definition.

    h_t = exp(d_t A) h_{t-1} + d_t B_t u_t with h_{-1} = u_0 (0 without the residual); y_t = <C_t, h_t>, or with the
    mask <C_t, h_t - d_t B_t u_t>, and 0 at the first token. The mask does not change the state.

    Args:
        u: (batch, length, dim).
        d: (batch, length, dim).
        A: (dim, state), real or complex.
        B: (batch, length, groups, state), complex if A is.
        C: (batch, length, groups, state), complex if A is.
        elemental_residual: Whether the state starts from the first token.
        masked: Whether a token's own input is hidden from it.

    Returns:
        y (batch, length, dim), and what the last token reads, (batch, dim, state).
    """
    B, C = (matrix.repeat_interleave(u.shape[-1] // matrix.shape[2], dim=2) for matrix in (B, C))
    decay = torch.exp(d.unsqueeze(-1) * A)  # (batch, length, dim, state)
    drive = d.unsqueeze(-1) * B * u.unsqueeze(-1)  # (batch, length, dim, state)
    h = torch.zeros_like(drive[:, 0])  # (batch, dim, state)
    if elemental_residual:
        h = h + u[:, 0].unsqueeze(-1)
    outputs = []
    for t, (a_t, x_t, C_t) in enumerate(zip(decay.unbind(1), drive.unbind(1), C.unbind(1), strict=True)):
        carried = a_t * h
        h = carried + x_t
        read = h
        if masked:
            read = carried if t > 0 else torch.zeros_like(carried)
        outputs.append((read * C_t).sum(-1))
    y = torch.stack(outputs, dim=1)
    return (2 * y.real if y.is_complex() else y), read


def scan(*inputs_and_flags) -> Tensor:
    """Compute `bidirectional_scan` (see there for arguments and result) by the loop, differentiated by autograd."""
    return compose_scan(lambda *direction: scan_direction(*direction)[0], *inputs_and_flags)


def compose_scan(
    scan_one, u, delta, A, A_b, B, C, D, z, delta_bias, delta_softplus, elemental_residual, masked, masked_backward
) -> Tensor:
    """Compose `bidirectional_scan` from scans in one direction: step size, flips, sum, skip and gate.

    The first argument, `scan_one`, computes y from (u, d, A, B, C, elemental_residual, masked), all in the order of
    the scan and in float32 (float64 for float64 input). The others are those of `bidirectional_scan`.
    """
    dtype = u.dtype
    u, delta, B, C, D, z, delta_bias = (in_compute_type(t) for t in (u, delta, B, C, D, z, delta_bias))
    d = step_size(delta, delta_bias, delta_softplus)
    total: Any = 0.0  # a tensor after the first direction
    if A is not None:
        total = total + scan_one(u, d, A, B, C, elemental_residual, masked)
    if A_b is not None:
        u_b, d_b, B_b, C_b = (t.flip(1) for t in (u, d, B, C))
        total = total + scan_one(u_b, d_b, A_b, B_b, C_b, elemental_residual, masked_backward).flip(1)
    if D is not None:
        total = total + ((A is not None) + (A_b is not None)) * D * u
    out = total if z is None else total * F.silu(z)
    return out.to(dtype)


def step_size(delta: Tensor, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
    """Return d = softplus(delta + delta_bias), or only the sum if `delta_softplus` is False."""
    raw = delta if delta_bias is None else delta + delta_bias
    return F.softplus(raw) if delta_softplus else raw


def in_compute_type(tensor: Given) -> Given:
    """Convert to float32; float64 (for gradient checks), complex tensors and None are returned unchanged."""
    if tensor is None or tensor.dtype == torch.float64 or tensor.is_complex():
        return tensor
    return cast(Given, tensor.float())


def scan_source(x: Tensor, convolved: Tensor, scan_input: str) -> Tensor:
    """Return the input of the scan: the convolved x (the method), or x before the convolution (published code)."""
    if scan_input not in SCAN_INPUTS:
        raise ValueError(f"scan_input must be one of {SCAN_INPUTS}, got {scan_input!r}")
    return convolved if scan_input == "conv" else x
