"""Short causal convolution with SiLU in one pass over memory, forward and backward; tiles as in `tiles`."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from mamba.mamba_ssm.ops.triton.launching import Tile, launch, row_distance, strides
from mamba.mamba_ssm.ops.triton.row_sums import sum_rows
from mamba.mamba_ssm.ops.triton.tiles import load_channels, place, sigmoid, store_rows

TILE = Tile(16, 4)


@triton.jit
def _load_window(pointer, batch, start, length, columns, stride_b, stride_l, stride_d, ROWS: tl.constexpr):
    """Load ROWS rows from token `start`, perhaps before the sequence; 0 outside it. No masks, as in `tiles`."""
    rows = ()
    pointer += batch * stride_b + columns.to(tl.int64) * stride_d
    for t in tl.static_range(ROWS):
        token = start + t
        row = tl.load(pointer + tl.minimum(tl.maximum(token, 0), length - 1).to(tl.int64) * stride_l)
        rows = rows + (tl.where((token >= 0) & (token < length), row.to(tl.float32), 0.0),)
    return rows


@triton.jit
def _load_taps(weight, columns, WIDTH: tl.constexpr):
    taps = ()
    for k in tl.static_range(WIDTH):
        taps = taps + (tl.load(weight + columns * WIDTH + k).to(tl.float32),)
    return taps


@triton.jit
def _convolve(window, taps, bias, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Compute bias + sum over k of taps[k] * window[t + k], for ROWS rows t."""
    outputs = ()
    for t in tl.static_range(ROWS):
        output = bias
        for k in tl.static_range(WIDTH):
            output += taps[k] * window[t + k]
        outputs = outputs + (output,)
    return outputs


@triton.jit(do_not_specialize=["x_b", "x_l", "x_d", "length", "dim"])
def convolution_kernel(
    x, weight, bias, out, x_b, x_l, x_d, length, dim,
    SILU: tl.constexpr, HAS_BIAS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid as in `place`. weight: (dim, WIDTH) contiguous; out is contiguous."""
    batch, chunk, _group, _block, channels, inside = place(tl.cdiv(length, CHUNK), dim, 1, BLOCK)
    start = chunk * CHUNK
    taps = _load_taps(weight, channels, WIDTH)
    offset = load_channels(bias, channels, HAS_BIAS)
    window = _load_window(x, batch, start - (WIDTH - 1), length, channels, x_b, x_l, x_d, CHUNK + WIDTH - 1)
    outputs = _convolve(window, taps, offset, CHUNK, WIDTH)
    if SILU:
        activated = ()
        for t in tl.static_range(CHUNK):
            activated = activated + (outputs[t] * sigmoid(outputs[t]),)
        outputs = activated
    store_rows(out, outputs, batch, start, length, dim, channels, inside, CHUNK)


@triton.jit(
    do_not_specialize=["x_b", "x_l", "x_d", "g_b", "g_l", "g_d", "grad_x_distance", "length", "dim", "batch_size"]
)
def convolution_backward_kernel(
    grad_out, x, weight, bias, grad_x, weight_shares, bias_shares, x_b, x_l, x_d, g_b, g_l, g_d,
    grad_x_distance, length, dim, batch_size,
    SILU: tl.constexpr, HAS_BIAS: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid as in `place`. grad_x: rows grad_x_distance apart.

    weight_shares (chunks, batch, WIDTH, dim) and bias_shares (chunks, batch, dim) are the gradients' partial sums per
    chunk, float32.
    """
    batch, chunk, _group, _block, channels, inside = place(tl.cdiv(length, CHUNK), dim, 1, BLOCK)
    start = chunk * CHUNK
    taps = _load_taps(weight, channels, WIDTH)
    offset = load_channels(bias, channels, HAS_BIAS)
    # A token affects outputs up to WIDTH - 1 tokens later, which in turn read as many tokens back.
    window = _load_window(x, batch, start - (WIDTH - 1), length, channels, x_b, x_l, x_d, CHUNK + 2 * (WIDTH - 1))
    grads = _load_window(grad_out, batch, start, length, channels, g_b, g_l, g_d, CHUNK + WIDTH - 1)
    if SILU:
        outputs = _convolve(window, taps, offset, CHUNK + WIDTH - 1, WIDTH)
        through = ()
        for t in tl.static_range(CHUNK + WIDTH - 1):
            s = sigmoid(outputs[t])
            through = through + (grads[t] * s * (1.0 + outputs[t] * (1.0 - s)),)
        grads = through
    row = chunk * batch_size + batch
    bias_share = tl.zeros_like(offset)
    inputs = ()
    for t in tl.static_range(CHUNK):
        bias_share += grads[t]
        grad_input = tl.zeros_like(offset)
        for k in tl.static_range(WIDTH):
            grad_input += taps[k] * grads[t + WIDTH - 1 - k]
        inputs = inputs + (grad_input,)
    store_rows(grad_x, inputs, batch, start, length, grad_x_distance, channels, inside, CHUNK)
    for k in tl.static_range(WIDTH):
        tap_share = tl.zeros_like(offset)
        for t in tl.static_range(CHUNK):
            tap_share += grads[t] * window[t + k]
        tl.store(weight_shares + (row * WIDTH + k) * dim + channels, tap_share, mask=inside)
    if HAS_BIAS:
        tl.store(bias_shares + row * dim + channels, bias_share, mask=inside)


def _sizes(x: Tensor) -> tuple[int, tuple[int]]:
    batch, length, dim = x.shape
    chunks = math.ceil(length / TILE.chunk)
    return chunks, (batch * chunks * math.ceil(dim / TILE.block),)


def _arguments(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> dict:
    """Return the launch arguments shared by both kernels."""
    return (
        dict(x=x, weight=weight.contiguous(), bias=None if bias is None else bias.contiguous())
        | strides("x", x)
        | dict(length=x.shape[1], dim=x.shape[2], SILU=silu, HAS_BIAS=bias is not None)
        | dict(WIDTH=weight.shape[1], CHUNK=TILE.chunk, BLOCK=TILE.block)
    )


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """Convolve x (batch, length, dim) with weight (dim, width), in x's type, with optional SiLU."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.numel():
        launch(convolution_kernel, _sizes(x)[1], TILE, **_arguments(x, weight, bias, silu), out=out)
    return out


def convolve_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, grad_x: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute the gradients of (x, weight, bias), that of x in grad_x if it is given: rows at equal distances."""
    batch, length, dim = x.shape
    width = weight.shape[1]
    chunks, grid = _sizes(x)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device) if grad_x is None else grad_x
    weight_shares = torch.empty(chunks, batch, width, dim, dtype=torch.float32, device=x.device)
    bias_shares = None if bias is None else weight_shares.new_empty(chunks, batch, dim)
    grad_weight, grad_bias = (None if t is None else t.new_empty(t.shape) for t in (weight, bias))
    if x.numel():
        outputs = dict(grad_x=grad_x, weight_shares=weight_shares, bias_shares=bias_shares)
        places = strides("g", grad_out) | dict(grad_x_distance=row_distance(grad_x), batch_size=batch)
        shared = _arguments(x, weight, bias, silu) | places
        launch(convolution_backward_kernel, grid, TILE, **shared, **outputs, grad_out=grad_out)
    sum_rows([(weight_shares, grad_weight), (bias_shares, grad_bias)])
    return grad_x, grad_weight, grad_bias
