"""Backend "cuda": the kernels of an installed mamba-ssm, and those of causal-conv1d for the convolution.

mamba-ssm's scan starts from a zero state and reads every token. Two identities give the method's scan from it (its
step after softplus is d):
    residual   prepend a token with d = 1, B = 1 and the first input u_0; drop its output
    mask       y_t - d_t u_t <B_t, C_t> for t > 0, and 0 for t = 0
Autograd differentiates both, through the two packages' own functions. Softplus, skip and gate stay outside, and the
scan runs in float32: what the mask subtracts must not be rounded more coarsely than what it is subtracted from.
"""

import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mamba.mamba_ssm.ops.selective_scan.reference import compose_scan

NAME = "cuda"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SCAN_MODULE = "mamba_ssm.ops.selective_scan_interface"
CONVOLUTION_MODULE = "causal_conv1d"
PACKAGES = {SCAN_MODULE: "mamba-ssm", CONVOLUTION_MODULE: "causal-conv1d"}

logger = logging.getLogger(__name__)


@functools.cache
def load_extension(name: str) -> tuple[Any, str | None]:
    """Import one of PACKAGES: (the module, None), or (None, why not and the remedy). Warn once where it is broken."""
    package = PACKAGES[name]
    try:
        return importlib.import_module(name), None
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return None, f"{package} is not installed (optional: pip install -r requirements-cuda.txt)"
        reason = str(error)
    except (ImportError, OSError) as error:
        reason = str(error)
    message = f"{package} is installed but broken: {explain_import_error(reason)}"
    logger.warning("%s", message)
    return None, message


def explain_import_error(message: str) -> str:
    """Return a loader's message in plain words, with the remedy."""
    rebuild = "reinstall it for this PyTorch: pip install --no-build-isolation --force-reinstall --no-deps"
    if "undefined symbol" in message:
        return f"it was built against another PyTorch ({message}); {rebuild}"
    if "libcudart" in message or "libcublas" in message or "libnv" in message:
        return f"it was built for another CUDA than this PyTorch's {torch.version.cuda} ({message}); {rebuild}"
    return f"{message}; {rebuild}"


def unavailable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why this backend cannot serve `device` and `dtype`, with the remedy; None if it can."""
    if device.type != "cuda":
        return "it needs an NVIDIA GPU"
    if dtype not in DTYPES:
        return "it computes in float32 and takes float32, bfloat16 and float16"
    return load_extension(SCAN_MODULE)[1]


def scan(*inputs_and_flags) -> Tensor:
    """Compute `bidirectional_scan`; arguments and result as there.

    The backward pass runs the scan again, so that only the inputs are kept for it.
    """
    module, reason = load_extension(SCAN_MODULE)
    if module is None:
        raise RuntimeError(f"backend {NAME!r}: {reason}")
    scan_one = functools.partial(scan_direction, module.selective_scan_fn)
    return checkpoint(compose_scan, scan_one, *inputs_and_flags, use_reentrant=False, preserve_rng_state=False)


def scan_direction(
    stock: Callable[..., Tensor], u: Tensor, d: Tensor, A: Tensor, B: Tensor, C: Tensor,
    elemental_residual: bool, masked: bool,
) -> Tensor:  # fmt: skip
    """Scan one direction by `stock`, mamba-ssm's `selective_scan_fn`; otherwise as `reference.scan_direction`."""
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
    """Compute `causal_conv1d` by causal-conv1d; None where it is missing or cannot take these tensors."""
    taken = x.dtype in DTYPES and weight.shape[1] in (2, 3, 4) and x.stride(2) == 1
    module = load_extension(CONVOLUTION_MODULE)[0] if taken and x.stride(0) % 8 == x.stride(1) % 8 == 0 else None
    if module is None:
        return None
    return module.causal_conv1d_fn(x.mT, weight, bias, activation="silu" if silu else None).mT
