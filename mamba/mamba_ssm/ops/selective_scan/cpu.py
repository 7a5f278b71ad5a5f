"""Backend "cpu": the fused C++ kernel of mamba/csrc, float32 and bfloat16, built on first use (see build_extension).

Both directions are computed in one call, channels last, in float32, with the argument lists of all backends (see
`portable`). The order of sums over channels, tokens and batch depends only on the shapes, so the result is
bit-identical for any number of threads.
"""

import math

import torch
from torch import Tensor

NAME = "cpu"
DTYPES = (torch.float32, torch.bfloat16)

# As in mamba/csrc/kernels.h: tokens between two saved states, and the multiple to which the state is padded.
CHUNK = 32
STATE_GROUP = 4

REVERSES_CONVOLUTION = True  # see `causal_conv1d`


def _extension():
    # Imported late, because the module is also run with python -m and must not be imported by its package before.
    from mamba.mamba_ssm.ops.selective_scan import build_extension

    return build_extension


def unavailable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot run, with the remedy, or None if it can; build the kernel if necessary."""
    if torch.device(device).type != "cpu":
        return f"the C++ kernel runs on the CPU, not on {device}"
    if dtype not in DTYPES:
        return f"the C++ kernel takes float32 and bfloat16, not {dtype}"
    return _extension().load_failure()


def state_shape(
    batch: int, length: int, dim: int, state: int, directions: int, device_type: str = "cpu"
) -> tuple[int, ...]:
    """Return the shape of the saved states: (batch, directions, chunks of CHUNK tokens, padded state, dim)."""
    return (batch, directions, math.ceil(length / CHUNK), math.ceil(state / STATE_GROUP) * STATE_GROUP, dim)


def forward(*inputs_and_flags) -> tuple[Tensor, Tensor]:
    """Compute `bidirectional_scan` (see there for shapes) without autograd; return (out, states for `backward`).

    Raises:
        ValueError: A shape or type does not match.
    """
    _extension().load()
    return torch.ops.vmp_cpu.scan_forward(*inputs_and_flags, True)


def forward_only(*inputs_and_flags) -> Tensor:
    """Compute `forward` without states, if no backward pass follows."""
    _extension().load()
    return torch.ops.vmp_cpu.scan_forward(*inputs_and_flags, False)[0]


def forward_onto_input(*inputs_and_flags) -> None:
    """Compute `forward_only` and write the result over u, whose channels must be contiguous."""
    _extension().load()
    torch.ops.vmp_cpu.scan_onto_input(*inputs_and_flags)


def backward(grad_out: Tensor, *inputs_states_flags, grad_z: Tensor | None = None) -> tuple[Tensor | None, ...]:
    """Compute the gradients of (u, delta, A, A_b, B, C, D, z, delta_bias), None for inputs that are None.

    Those of A, A_b, D and delta_bias are float32, the others have their input's type. That of z is
    copied to grad_z, if given, as the tests of the function for GPUs do.
    """
    _extension().load()
    grads = torch.ops.vmp_cpu.scan_backward(grad_out, *inputs_states_flags)
    if grad_z is not None:
        grad_z.copy_(grads[7])
    return grads


def causal_conv1d_forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool = False) -> Tensor:
    """Compute `causal_conv1d` (see there) without autograd, for float32 and bfloat16.

    The channels of x must be contiguous, as those of the result are.
    """
    _extension().load()
    return torch.ops.vmp_cpu.conv_forward(x, weight, bias, silu, reverse)


def causal_conv1d_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    reverse: bool = False,
    *,
    grad_x: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the gradients of x, weight and bias (None without a bias), each in its input's type.

    That of x is copied to grad_x, if given, as the tests of the function for GPUs do.
    """
    _extension().load()
    grads = torch.ops.vmp_cpu.conv_backward(grad_out, x, weight, bias, silu, reverse)
    if grad_x is not None:
        grad_x.copy_(grads[0])
    return grads


def add_norm_forward(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, is_rms: bool
) -> tuple[Tensor, Tensor]:
    """Compute `add_norm` without autograd: (normed in hidden's type, residual + hidden in float32), contiguous."""
    _extension().load()
    return torch.ops.vmp_cpu.add_norm_forward(hidden, residual, weight, bias, eps, is_rms)


def add_norm_backward(
    *gradients_and_inputs, grad_hidden: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the gradients of (hidden + residual, in float32; weight; bias).

    The arguments are grad_normed, grad_total, total (the new residual), weight, bias, eps and is_rms. The first
    gradient is copied to grad_hidden, if given, as the tests of the function for GPUs do.
    """
    _extension().load()
    grads = torch.ops.vmp_cpu.add_norm_backward(*gradients_and_inputs)
    if grad_hidden is not None:
        grad_hidden.copy_(grads[0])
    return grads
