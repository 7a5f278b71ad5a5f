"""A = -exp(A_log) of both directions in one launch, and the gradients in another."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from mamba.mamba_ssm.ops.triton.launching import Tile, launch

TILE = Tile(1, 4)


@triton.jit(do_not_specialize=["dim", "state"])
def state_rate_kernel(log, log_b, grad, grad_b, out, dim, state, BLOCK: tl.constexpr):
    """Grid (blocks of elements of out). Inputs: (dim, state), without gaps.

    With gradients, out (2, dim, state) is what they make those of log and log_b. Without them, it is -exp of both with
    the entries of the state in rows, (2, state, dim), as the scan's kernels read it.
    """
    elements = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    size = dim * state
    within = elements % size
    first, inside = elements < size, elements < 2 * size
    if grad is None:
        at = within % dim * state + within // dim
        factor = -1.0
    else:
        at = within
        factor = -tl.load(tl.where(first, grad, grad_b) + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(tl.where(first, log, log_b) + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + elements, (factor * tl.exp(value)).to(out.dtype.element_ty), mask=inside)


def _run(log: Tensor, log_b: Tensor, grad: Tensor | None, grad_b: Tensor | None, out: Tensor) -> tuple[Tensor, ...]:
    dim, state = log.shape
    inputs = dict(log=log, log_b=log_b, grad=grad, grad_b=grad_b)
    given = {name: None if tensor is None else tensor.contiguous() for name, tensor in inputs.items()}
    grid = (math.ceil(out.numel() / TILE.block),)
    launch(state_rate_kernel, grid, TILE, **given, out=out, dim=dim, state=state, BLOCK=TILE.block)
    return out.unbind()


def state_rates(log: Tensor, log_b: Tensor) -> tuple[Tensor, ...]:
    """Compute -exp(log) and -exp(log_b) in float32, (dim, state) each, as transposed views."""
    rates = log.new_empty(2, *log.t().shape, dtype=torch.float32)
    return tuple(rate.t() for rate in _run(log, log_b, None, None, rates))


def state_rates_backward(grad: Tensor, grad_b: Tensor, log: Tensor, log_b: Tensor) -> tuple[Tensor, ...]:
    """Compute the gradients of (log, log_b), in their type."""
    return _run(log, log_b, grad, grad_b, log.new_empty(2, *log.shape))
