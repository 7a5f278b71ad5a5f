"""Backend "triton": the fused kernels of `ops/triton`, for NVIDIA GPUs and, with Triton's interpreter, the CPU.

This module can be imported everywhere, because Triton and the kernels are imported at the first call.
"""

import importlib.util

import torch
from torch import Tensor

NAME = "triton"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MIN_CAPABILITY = (8, 0)  # Ampere; older cards have no bfloat16
MAX_NORM_WIDTH = 8192  # maximum channels per row in add_norm


def interpreted() -> bool:
    """Return whether TRITON_INTERPRET is set; kernels then run on the CPU, slowly, for tests.

    Triton reads the variable when a kernel is defined, so it must be set before the kernels are imported.
    """
    from triton import knobs

    return knobs.runtime.interpret


def unavailable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot run on `device` with `dtype`, with the remedy, or None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install triton)"
    if dtype not in DTYPES:
        return f"it computes in float32 and takes {', '.join(str(d).removeprefix('torch.') for d in DTYPES)}"
    if device.type == "cpu" and interpreted():
        return None
    if device.type != "cuda":
        return "it needs an NVIDIA GPU"
    if not torch.cuda.is_available():
        return "PyTorch sees no NVIDIA GPU"
    if torch.version.hip is not None:
        return "its kernels are checked for NVIDIA GPUs only"
    if torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return f"the GPU is older than compute capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}"
    return None


def state_shape(
    batch: int, length: int, dim: int, state: int, directions: int, device_type: str = "cpu"
) -> tuple[int, ...]:
    """Return the shape of the saved states: empty, because the backward pass recomputes them from the inputs."""
    return (0,)


def forward(*inputs_and_flags) -> tuple[Tensor, Tensor]:
    """Compute `bidirectional_scan` (see there for shapes) without autograd; return (out, empty)."""
    from mamba.mamba_ssm.ops.triton.selective_scan import scan_forward

    out = scan_forward(*inputs_and_flags)
    return out, out.new_empty(0, dtype=torch.float32)


def backward(grad_out: Tensor, *inputs_states_flags, grad_z: Tensor | None = None) -> tuple[Tensor | None, ...]:
    """Compute the gradients of (u, delta, A, A_b, B, C, D, z, delta_bias), None for inputs that are None.

    With grad_z, the gradient of z is written there: (batch, length, dim) with rows at equal distances.
    """
    from mamba.mamba_ssm.ops.triton.selective_scan import scan_backward

    *inputs, _states, delta_softplus, elemental_residual, masked, masked_backward = inputs_states_flags
    return scan_backward(grad_out, *inputs, delta_softplus, elemental_residual, masked, masked_backward, grad_z=grad_z)


def causal_conv1d_forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """Compute `causal_conv1d` without autograd: x (batch, length, dim), weight (dim, width)."""
    from mamba.mamba_ssm.ops.triton.causal_conv1d import convolve

    return convolve(x, weight, bias, silu)


def causal_conv1d_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, *, grad_x: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the gradients of (x, weight, bias), that of x in grad_x if it is given: rows at equal distances."""
    from mamba.mamba_ssm.ops.triton.causal_conv1d import convolve_backward

    return convolve_backward(grad_out, x, weight, bias, silu, grad_x)


def state_rates(log: Tensor, log_b: Tensor) -> tuple[Tensor, ...]:
    """Compute -exp(log) and -exp(log_b), (dim, state) each, in float32 and in the layout that the scan reads."""
    from mamba.mamba_ssm.ops.triton.state_rates import state_rates

    return state_rates(log, log_b)


def state_rates_backward(grad: Tensor, grad_b: Tensor, log: Tensor, log_b: Tensor) -> tuple[Tensor, ...]:
    """Compute the gradients of (log, log_b)."""
    from mamba.mamba_ssm.ops.triton.state_rates import state_rates_backward

    return state_rates_backward(grad, grad_b, log, log_b)


def add_norm_forward(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, is_rms: bool
) -> tuple[Tensor, Tensor]:
    """Compute `add_norm` without autograd: (normed, new residual)."""
    from mamba.mamba_ssm.ops.triton.layer_norm import run_forward

    return run_forward(hidden, residual, weight, bias, eps, is_rms)


def add_norm_backward(
    *gradients_and_inputs, grad_hidden: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the gradients of (hidden + residual, weight, bias); see `layer_norm.run_backward` for the arguments."""
    from mamba.mamba_ssm.ops.triton.layer_norm import run_backward

    return run_backward(*gradients_and_inputs, grad_hidden=grad_hidden)
