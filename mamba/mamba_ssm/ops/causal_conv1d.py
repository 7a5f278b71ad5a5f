"""The short convolution before the scan: depthwise, causal, with SiLU, channels last.

Scan backends with their own convolution are used through the registered operator (`causal_conv1d_forward`,
`causal_conv1d_backward`) or as a function that autograd differentiates (`convolve`). Otherwise the convolution is
composed of PyTorch operations, one shifted product per tap.
"""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from mamba.mamba_ssm.ops.selective_scan.dispatch import BACKENDS, choose_backend


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    silu: bool = True,
    reverse: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Compute y_t = sum_k weight[:, k] x_{t - width + 1 + k} + bias, with zeros before the start, then SiLU.

    In reverse, the tokens are taken from the last to the first; a backend of which `REVERSES_CONVOLUTION` is true does
    so without flipped copies, except under torch.compile and in exports, whose graphs other programs read.

    Args:
        x: (batch, length, dim).
        weight: (dim, width); the last tap applies to the current token.
        bias: (dim).
        silu: Whether to apply SiLU.
        reverse: Whether to run backward in time.
        backend: Backend of the scan; None selects one automatically.

    Returns:
        (batch, length, dim), x's type.
    """
    name = choose_backend(backend, x.device, x.dtype)
    if reverse and (torch.compiler.is_compiling() or not getattr(BACKENDS[name], "REVERSES_CONVOLUTION", False)):
        return causal_conv1d(x.flip(1), weight, bias, silu=silu, backend=backend).flip(1)
    if hasattr(BACKENDS[name], "causal_conv1d_forward"):
        return _convolve(x, weight, bias, silu, name, reverse)
    out = BACKENDS[name].convolve(x, weight, bias, silu) if hasattr(BACKENDS[name], "convolve") else None
    return _compose(x, weight, bias, silu) if out is None else out


def _compose(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    width, length = weight.shape[-1], x.shape[1]
    padded = F.pad(x, (0, 0, width - 1, 0))
    out = reduce(torch.add, (padded[:, k : k + length] * weight[:, k].to(x.dtype) for k in range(width)))
    if bias is not None:
        out = out + bias.to(x.dtype)
    return F.silu(out) if silu else out


@torch.library.custom_op("videomambapro::causal_conv1d", mutates_args=())
def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, backend: str, reverse: bool = False
) -> Tensor:
    return BACKENDS[backend].causal_conv1d_forward(x, weight, bias, silu, *_order(reverse))


def _order(reverse: bool) -> tuple[bool, ...]:
    """Return the last arguments of a backend's functions, which take the order only if they can reverse it."""
    return (True,) if reverse else ()


@_convolve.register_fake
def _convolve_fake(x, weight, bias, silu, backend, reverse=False):
    return x.new_empty(x.shape)


@torch.library.custom_op("videomambapro::causal_conv1d_backward", mutates_args=())
def _convolve_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, backend: str, reverse: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    order = _order(reverse)
    grad_x, grad_weight, grad_bias = BACKENDS[backend].causal_conv1d_backward(grad_out, x, weight, bias, silu, *order)
    return grad_x, grad_weight, weight.new_empty(0) if bias is None else grad_bias


@_convolve_backward.register_fake
def _convolve_backward_fake(grad_out, x, weight, bias, silu, backend, reverse=False):
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(0 if bias is None else bias.shape)


def _save_for_backward(ctx, inputs, output):
    x, weight, bias, ctx.silu, ctx.backend, ctx.reverse = inputs
    ctx.save_for_backward(x, weight, bias)


def _differentiate(ctx, grad_out):
    x, weight, bias = ctx.saved_tensors
    grad_x, grad_weight, grad_bias = _convolve_backward(grad_out, x, weight, bias, ctx.silu, ctx.backend, ctx.reverse)
    return grad_x, grad_weight, None if bias is None else grad_bias, None, None, None


_convolve.register_autograd(_differentiate, setup_context=_save_for_backward)
