"""`add_norm`: residual addition and norm, fused into one pass over memory if a backend supports it.

Between two mixers, the model adds to the float32 residual stream and normalises it. Separate operators would take four
passes over memory. Scan backends with a kernel for it (`add_norm_forward`, `add_norm_backward`: C++ on the CPU, Triton
on a GPU) are used through the registered operator, otherwise plain PyTorch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mamba.mamba_ssm.ops.projection import trains_eagerly_on_gpu
from mamba.mamba_ssm.ops.selective_scan.dispatch import BACKENDS, choose_backend


def add_norm(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    is_rms: bool,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute norm(residual + hidden) and residual + hidden.

    Args:
        hidden: Branch to add, (..., dim).
        residual: Residual stream, (..., dim), or None at the first layer.
        weight: (dim).
        bias: (dim) or None, as for RMSNorm.
        eps: Added to the mean square or variance.
        is_rms: RMSNorm, x / sqrt(mean(x^2) + eps) * weight, instead of LayerNorm.
        backend: Backend of the scan; None selects one automatically.

    Returns:
        The normalised tensor (..., dim) in hidden's type, and the new residual (..., dim) in float32 (float64 for
        float64).

    Raises:
        ValueError: Shapes do not match, or the backend is unknown.
        BackendUnavailableError: The backend cannot run here.
    """
    dim = hidden.shape[-1]
    expected = [("residual", residual, hidden.shape), ("weight", weight, (dim,)), ("bias", bias, (dim,))]
    for name, tensor, shape in expected:
        if tensor is not None and tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} must be {tuple(shape)} for hidden {tuple(hidden.shape)}, got {tensor.shape}")
    if residual is not None:
        residual = residual.to(_stream_dtype(hidden))
    name = choose_backend(backend, hidden.device, hidden.dtype)
    if fused(name, dim):
        operator = _AddNorm.apply if trains_eagerly_on_gpu(hidden) else _add_norm
        return operator(hidden, residual, weight, bias, eps, is_rms, name)
    return _compose(hidden, residual, weight, bias, eps, is_rms)


def fused(backend: str, dim: int) -> bool:
    """Return whether `backend` has a kernel for rows of `dim` channels."""
    module = BACKENDS.get(backend)
    return hasattr(module, "add_norm_forward") and dim <= getattr(module, "MAX_NORM_WIDTH", dim)


def _stream_dtype(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _compose(hidden, residual, weight, bias, eps, is_rms):
    stream = _stream_dtype(hidden)
    total = hidden.to(stream, copy=residual is None)
    total = total if residual is None else residual + total
    weight, bias = weight.to(stream), None if bias is None else bias.to(stream)
    if is_rms:
        normed = F.rms_norm(total, weight.shape, weight, eps)
        normed = normed if bias is None else normed + bias
    else:
        normed = F.layer_norm(total, weight.shape, weight, bias, eps)
    return normed.to(hidden.dtype), total


def _forward(
    hidden: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    is_rms: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return BACKENDS[backend].add_norm_forward(hidden, residual, weight, bias, eps, is_rms)


_add_norm = torch.library.custom_op("videomambapro::add_norm", _forward, mutates_args=())


@_add_norm.register_fake
def _add_norm_fake(hidden, residual, weight, bias, eps, is_rms, backend):
    return hidden.new_empty(hidden.shape), hidden.new_empty(hidden.shape, dtype=torch.float32)


def _backward(
    grad_normed: Tensor,
    grad_total: Tensor,
    total: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    is_rms: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    grad, grad_weight, grad_bias = BACKENDS[backend].add_norm_backward(
        grad_normed, grad_total, total, weight, bias, eps, is_rms
    )
    return grad, grad_weight, weight.new_empty(0) if bias is None else grad_bias


_add_norm_backward = torch.library.custom_op("videomambapro::add_norm_backward", _backward, mutates_args=())


@_add_norm_backward.register_fake
def _add_norm_backward_fake(grad_normed, grad_total, total, weight, bias, eps, is_rms, backend):
    grad_bias = weight.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return total.new_empty(total.shape), weight.new_empty(weight.shape), grad_bias


def _save_for_backward(ctx, inputs, output):
    hidden, residual, weight, bias, ctx.eps, ctx.is_rms, ctx.backend = inputs
    ctx.has_residual, ctx.hidden_dtype = residual is not None, hidden.dtype
    ctx.save_for_backward(output[1], weight, bias)


def _differentiate(ctx, grad_normed, grad_total):
    total, weight, bias = ctx.saved_tensors
    grad, grad_weight, grad_bias = _add_norm_backward(
        grad_normed, grad_total, total, weight, bias, ctx.eps, ctx.is_rms, ctx.backend
    )
    grad_residual = grad if ctx.has_residual else None
    grad_bias = None if bias is None else grad_bias
    return grad.to(ctx.hidden_dtype), grad_residual, grad_weight, grad_bias, None, None, None


_add_norm.register_autograd(_differentiate, setup_context=_save_for_backward)


class _AddNorm(torch.autograd.Function):
    """The operator without the dispatcher, which takes the host as long as the launches.

    The kernel writes the gradient of hidden in hidden's type itself; an operator's results must not share memory, as
    the gradients of hidden and residual do if both are float32.
    """

    @staticmethod
    def forward(*inputs):
        return _forward(*inputs)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _save_for_backward(ctx, inputs, output)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_normed, grad_total):
        total, weight, bias = ctx.saved_tensors
        of_hidden = None
        if ctx.hidden_dtype != total.dtype:
            of_hidden = total.new_empty(total.shape, dtype=ctx.hidden_dtype)
        grad, of_weight, of_bias = BACKENDS[ctx.backend].add_norm_backward(
            grad_normed, grad_total, total, weight, bias, ctx.eps, ctx.is_rms, grad_hidden=of_hidden
        )
        of_residual = grad if ctx.has_residual else None
        return grad if of_hidden is None else of_hidden, of_residual, of_weight, of_bias, None, None, None
