"""Residual addition and RMSNorm or LayerNorm in one pass over memory, forward and backward.

A program processes whole rows (all channels of a token), so the statistics need no second pass. The residual stream is
float32 whatever the type of the branch that is added. The backward pass recomputes the statistics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mamba.mamba_ssm.ops.triton.launching import Tile, launch

WARPS = 16  # of the backward pass on a multiprocessor, so that enough rows are under way to hide the latency
MULTIPROCESSORS = 132  # where no GPU tells its own, as for the compile report: an H100's


@triton.jit
def _statistics(x, inside, dim, eps, RMS: tl.constexpr):
    """Compute (x - mean, 1 / standard deviation) of a row, or with RMSNorm (x, 1 / root mean square)."""
    if RMS:
        centred = x
    else:
        centred = tl.where(inside, x - tl.sum(x, axis=0) / dim, 0.0)
    return centred, 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / dim + eps)


@triton.jit(do_not_specialize=["rows", "dim"])
def add_norm_kernel(
    hidden, residual, weight, bias, normed, total, eps, rows, dim,
    HAS_RESIDUAL: tl.constexpr, HAS_BIAS: tl.constexpr, RMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (rows): total = hidden + residual in float32, normed = norm(total) in hidden's type. All contiguous."""
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    at = tl.program_id(0).to(tl.int64) * dim + columns
    x = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual + at, mask=inside, other=0.0)
    tl.store(total + at, x, mask=inside)
    centred, scale = _statistics(x, inside, dim, eps, RMS)
    y = centred * scale * tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    if HAS_BIAS:
        y += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed + at, y.to(normed.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "dim"])
def add_norm_backward_kernel(
    grad_normed, grad_total, total, weight, grad_input, grad_hidden, grad_weight, grad_bias, eps, rows, dim,
    HAS_BIAS: tl.constexpr, RMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (programs), each taking every programs-th row: grad_input (rows, dim) float32, the gradient of total.

    grad_hidden is the same in its own type, or None. grad_weight and grad_bias (programs, dim) are partial sums per
    program, float32.
    """
    columns = tl.arange(0, BLOCK)
    inside = columns < dim
    scales = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    weight_share = tl.zeros([BLOCK], tl.float32)
    bias_share = tl.zeros([BLOCK], tl.float32)
    program = tl.program_id(0)
    at = program.to(tl.int64) * dim + columns
    for _ in range(program, rows, tl.num_programs(0)):
        x = tl.load(total + at, mask=inside, other=0.0)
        grad = tl.load(grad_normed + at, mask=inside, other=0.0).to(tl.float32)
        centred, scale = _statistics(x, inside, dim, eps, RMS)
        unit = centred * scale
        weight_share += grad * unit
        bias_share += grad
        grad = grad * scales
        grad_x = grad - unit * (tl.sum(grad * unit, axis=0) / dim)
        if not RMS:
            grad_x -= tl.sum(grad, axis=0) / dim
        grad_x = grad_x * scale + tl.load(grad_total + at, mask=inside, other=0.0)
        tl.store(grad_input + at, grad_x, mask=inside)
        if grad_hidden is not None:
            tl.store(grad_hidden + at, grad_x.to(grad_hidden.dtype.element_ty), mask=inside)
        at += tl.num_programs(0) * dim
    share = program * dim + columns
    tl.store(grad_weight + share, weight_share, mask=inside)
    if HAS_BIAS:
        tl.store(grad_bias + share, bias_share, mask=inside)


def _tile(dim: int) -> Tile:
    """Return one row per program, with warps such that a thread has about eight channels."""
    return Tile(1, min(8, max(1, triton.next_power_of_2(dim) // 256)))


def _programs(device: torch.device, tile: Tile) -> int:
    on_gpu = device.type == "cuda"
    count = torch.cuda.get_device_properties(device).multi_processor_count if on_gpu else MULTIPROCESSORS
    return count * max(1, WARPS // tile.warps)


def run_forward(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, is_rms: bool
) -> tuple[Tensor, Tensor]:
    """Compute (normed, new residual); arguments as in `add_norm`."""
    dim = hidden.shape[-1]
    rows = hidden.numel() // dim
    normed = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
    total = torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device)
    if rows:
        inputs = dict(hidden=hidden.contiguous(), residual=None if residual is None else residual.contiguous())
        weights = dict(weight=weight.contiguous(), bias=None if bias is None else bias.contiguous())
        outputs = dict(normed=normed, total=total)
        flags = dict(HAS_RESIDUAL=residual is not None, HAS_BIAS=bias is not None, RMS=is_rms)
        sizes = dict(eps=eps, rows=rows, dim=dim, BLOCK=triton.next_power_of_2(dim))
        launch(add_norm_kernel, (rows,), _tile(dim), **inputs, **weights, **outputs, **flags, **sizes)
    return normed, total


def run_backward(
    grad_normed: Tensor,
    grad_total: Tensor,
    total: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    is_rms: bool,
    grad_hidden: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the gradients of (hidden + residual, weight, bias); grad_total is that of `total`, the new residual.

    The first is float32, and also written to grad_hidden in the type of that, if it is given; contiguous.
    """
    dim = total.shape[-1]
    rows = total.numel() // dim
    programs = min(rows, _programs(total.device, _tile(dim)))
    grad_input = torch.empty(total.shape, dtype=torch.float32, device=total.device)
    grad_weight = torch.empty(programs, dim, dtype=torch.float32, device=total.device)
    grad_bias = None if bias is None else torch.empty_like(grad_weight)
    if rows:
        inputs = dict(grad_normed=grad_normed.contiguous(), grad_total=grad_total.contiguous(), total=total)
        outputs = dict(grad_input=grad_input, grad_hidden=grad_hidden, grad_weight=grad_weight, grad_bias=grad_bias)
        flags = dict(weight=weight.contiguous(), HAS_BIAS=bias is not None, RMS=is_rms)
        sizes = dict(eps=eps, rows=rows, dim=dim, BLOCK=triton.next_power_of_2(dim))
        launch(add_norm_backward_kernel, (programs,), _tile(dim), **inputs, **outputs, **flags, **sizes)
    grad_bias = None if bias is None else grad_bias.sum(0).to(bias.dtype)
    return grad_input, grad_weight.sum(0).to(weight.dtype), grad_bias
