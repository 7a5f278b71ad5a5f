"""Backend "cpu": the fused C++ kernel of mamba/csrc, float32 and bfloat16, built on first use (see build_extension).

Both directions in one call, channels last; argument lists are those of every backend (see `portable`). float32 inside;
sums over channels, tokens and batch go in an order the shapes alone decide, so any number of threads gives the same
bits.
"""

import math

import torch
from torch import Tensor

NAME = "cpu"
DTYPES = (torch.float32, torch.bfloat16)

# As in mamba/csrc/kernels.h: tokens between two saved states, and what the state dimension is rounded up to.
CHUNK = 32
STATE_GROUP = 4


def _extension():
    # Imported late: the module is also run by itself, and must not be loaded by its own package before that.
    from mamba.mamba_ssm.ops.selective_scan import build_extension

    return build_extension


def unavailable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot serve `device` and `dtype`, with the remedy; None where it can. Builds it if need be."""
    if torch.device(device).type != "cpu":
        return f"the C++ kernel runs on the CPU, not on {device}"
    if dtype not in DTYPES:
        return f"the C++ kernel takes float32 and bfloat16, not {dtype}"
    return _extension().load_failure()


def state_shape(batch: int, length: int, dim: int, state: int, directions: int) -> tuple[int, ...]:
    """Shape of the saved states: (batch, directions, chunks of CHUNK tokens, padded state, dim)."""
    return (batch, directions, math.ceil(length / CHUNK), math.ceil(state / STATE_GROUP) * STATE_GROUP, dim)


def forward(
    u, delta, A, A_b, B, C, D, z, delta_bias, delta_softplus, elemental_residual, masked, masked_backward
) -> tuple[Tensor, Tensor]:
    """`bidirectional_scan` without autograd; see there for shapes. Returns (out, states for `backward`).

    Raises:
        ValueError: a shape or type does not fit.
    """
    _extension().load()
    flags = (delta_softplus, elemental_residual, masked, masked_backward)
    return torch.ops.vmp_cpu.scan_forward(u, delta, A, A_b, B, C, D, z, delta_bias, *flags, True)


def forward_only(
    u, delta, A, A_b, B, C, D, z, delta_bias, delta_softplus, elemental_residual, masked, masked_backward
) -> Tensor:
    """`forward` without states, where no backward pass will follow."""
    _extension().load()
    flags = (delta_softplus, elemental_residual, masked, masked_backward)
    return torch.ops.vmp_cpu.scan_forward(u, delta, A, A_b, B, C, D, z, delta_bias, *flags, False)[0]


def backward(
    grad_out, u, delta, A, A_b, B, C, D, z, delta_bias, states,
    delta_softplus, elemental_residual, masked, masked_backward,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of (u, delta, A, A_b, B, C, D, z, delta_bias), None where the input is None.

    Those of A, A_b, D and delta_bias are float32, the others of their input's type.
    """
    _extension().load()
    flags = (delta_softplus, elemental_residual, masked, masked_backward)
    return torch.ops.vmp_cpu.scan_backward(grad_out, u, delta, A, A_b, B, C, D, z, delta_bias, states, *flags)


def causal_conv1d_forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """y_t = sum_k weight[:, k] x_{t - width + 1 + k} + bias, zeros before the start, then SiLU where asked.

    Args:
        x: (batch, length, dim), channels contiguous, float32 or bfloat16. weight: (dim, width). bias: (dim).

    Returns:
        (batch, length, dim), contiguous, x's type.
    """
    _extension().load()
    return torch.ops.vmp_cpu.conv_forward(x, weight, bias, silu)


def causal_conv1d_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of x, weight and bias (None without one), each of its input's type; arguments as in the forward."""
    _extension().load()
    return torch.ops.vmp_cpu.conv_backward(grad_out, x, weight, bias, silu)


def add_norm_forward(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, is_rms: bool
) -> tuple[Tensor, Tensor]:
    """`add_norm` without autograd: (normed in hidden's type, residual + hidden in float32), both contiguous."""
    _extension().load()
    return torch.ops.vmp_cpu.add_norm_forward(hidden, residual, weight, bias, eps, is_rms)


def add_norm_backward(
    grad_normed: Tensor, grad_total: Tensor, total: Tensor, weight: Tensor, bias: Tensor | None, eps: float,
    is_rms: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of (hidden and residual alike, in float32; weight; bias); `total` is the new residual."""
    _extension().load()
    return torch.ops.vmp_cpu.add_norm_backward(grad_normed, grad_total, total, weight, bias, eps, is_rms)
