"""Backend "cuda": the scan kernels of an installed mamba-ssm and the convolution of causal-conv1d.

mamba-ssm's scan starts from a zero state and reads every token. Two identities yield the scan of the method (d is the
step size after softplus):
    residual   prepend a token with d = 1, B = 1 and the first input u_0; drop its output
    mask       y_t - d_t u_t <B_t, C_t> for t > 0, and 0 for t = 0
Autograd differentiates both, through the functions of the two packages. Softplus, skip and gate are applied outside.
The scan runs in float32, so that the mask's subtraction does not amplify rounding errors.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mamba.mamba_ssm.ops.selective_scan.reference import compose_scan
from mamba.mamba_ssm.ops.selective_scan.stock_packages import CONVOLUTION_MODULE, SCAN_MODULE, load_extension

NAME = "cuda"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def unavailable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot run on `device` with `dtype`, with the remedy, or None if it can."""
    if device.type != "cuda":
        return "it needs an NVIDIA GPU"
    if dtype not in DTYPES:
        return "it computes in float32 and takes float32, bfloat16 and float16"
    fault = load_extension(SCAN_MODULE)[1]
    return None if fault is None else str(fault)


def scan(*inputs_and_flags) -> Tensor:
    """Compute `bidirectional_scan` (see there for arguments and result).

    The backward pass recomputes the scan, so only the inputs are kept for it.
    """
    module, fault = load_extension(SCAN_MODULE)
    if module is None:
        raise RuntimeError(f"backend {NAME!r}: {fault}")
    scan_one = functools.partial(scan_direction, module.selective_scan_fn)
    return checkpoint(compose_scan, scan_one, *inputs_and_flags, use_reentrant=False, preserve_rng_state=False)


def scan_direction(
    stock: Callable, u: Tensor, d: Tensor, A: Tensor, B: Tensor, C: Tensor, elemental_residual: bool, masked: bool
) -> Tensor:
    """Scan one direction as `reference.scan_direction` does, with `stock`, mamba-ssm's `selective_scan_fn`."""
    u, d = u.mT, d.mT  # (batch, dim, length)
    B, C = (matrix.permute(0, 2, 3, 1) for matrix in (B, C))  # (batch, groups, state, length)
    inputs = {"u": u, "delta": d, "B": B, "C": C}
    if elemental_residual:
        firsts = {"u": u[..., :1], "delta": torch.ones_like(d[..., :1]), "B": torch.ones_like(B[..., :1])}
        firsts["C"] = C[..., :1]  # its output is dropped
        inputs = {name: torch.cat([firsts[name], tensor], -1) for name, tensor in inputs.items()}
    y = stock(A=A, **{name: tensor.contiguous() for name, tensor in inputs.items()})[..., -u.shape[-1] :]
    if masked:
        own = (B * C).sum(2).repeat_interleave(u.shape[1] // B.shape[1], dim=1)  # (batch, dim, length)
        y = F.pad((y - d * u * own)[..., 1:], (1, 0))
    return y.mT


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor | None:
    """Compute `causal_conv1d` by causal-conv1d; return None if it is missing or does not support these tensors."""
    supported = x.dtype in DTYPES and weight.shape[1] in (2, 3, 4) and x.stride(2) == 1
    module = load_extension(CONVOLUTION_MODULE)[0] if supported and x.stride(0) % 8 == x.stride(1) % 8 == 0 else None
    if module is None:
        return None
    return module.causal_conv1d_fn(x.mT, weight, bias, activation="silu" if silu else None).mT
