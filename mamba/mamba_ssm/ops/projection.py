"""Matrix products of tokens with weights that launch little in eager training on a GPU."""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def trains_eagerly_on_gpu(x: Tensor) -> bool:
    """Return whether autograd records what is computed with x, on a GPU, outside of torch.compile and export."""
    if torch.compiler.is_compiling():
        return False
    return x.is_cuda and torch.is_grad_enabled() and type(x) in (Tensor, nn.Parameter)


def product_type(tokens: Tensor) -> torch.dtype:
    """Return the type of a product of float tokens with a weight: that of autocast where it is on.

    Autocast leaves float64 alone, and the device "meta" does not know it.
    """
    device = tokens.device.type
    if tokens.dtype == torch.float64 or tokens.is_meta:
        return tokens.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype


class Projection(nn.Linear):
    """`nn.Linear` whose weight gradient needs no launch of its own to become float32 under autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """Project input (batch, length, in_features) to (batch, length, out_features)."""
        if self.bias is not None or not trains_eagerly_on_gpu(input):
            return super().forward(input)
        dtype = product_type(input)
        return _Product.apply(input.to(dtype), self.weight)  # pyright: ignore[reportReturnType]  (untyped in PyTorch)

    def rows(self, input: Tensor, rows: slice) -> Tensor:
        """Project input (batch, length, in_features) to the output features in `rows` only."""
        return F.linear(input, self.weight[rows], None if self.bias is None else self.bias[rows])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens, weight):
        in_type = weight.to(tokens.dtype)
        ctx.save_for_backward(tokens, in_type)
        ctx.dtype = weight.dtype
        return product(tokens, in_type)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad):
        tokens, weight = ctx.saved_tensors
        of_tokens, of_weight = ctx.needs_input_grad
        return (
            product(grad, weight.t()) if of_tokens else None,
            weight_gradient(grad, tokens, ctx.dtype) if of_weight else None,
        )


def product(tokens: Tensor, weight: Tensor, onto: Tensor | None = None) -> Tensor:
    """Compute tokens (batch, length, k) @ weight (n, k) transposed, or add it to `onto` (batch, length, n) in place.

    Weights must have the type of the tokens; autocast does not apply.
    """
    rows = tokens.flatten(0, 1)  # (batch * length, k)
    with torch.autocast(tokens.device.type, enabled=False):
        if onto is None:
            return torch.mm(rows, weight.t()).unflatten(0, tokens.shape[:2])
        onto.flatten(0, 1).addmm_(rows, weight.t())
        return onto


def weight_gradient(grad: Tensor, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute the gradient (n, k) of a weight from grad (batch, length, n) and its input (batch, length, k)."""
    left, right = grad.flatten(0, 1).t(), tokens.flatten(0, 1)
    with torch.autocast(grad.device.type, enabled=False):
        if dtype == left.dtype:
            return torch.mm(left, right)
        # On a GPU the product can write another type than it reads, which saves a launch and a rounding.
        return torch.mm(left, right, out_dtype=dtype) if left.is_cuda else torch.mm(left, right).to(dtype)
