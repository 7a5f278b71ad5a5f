"""Bidirectional scan with Triton kernels: allocation, grids and strides; arguments as in `bidirectional_scan`.

Forward pass: `summary_kernel` (contribution of each chunk), `carry_kernel` (state before each chunk),
`forward_kernel`. Backward pass: the same with the adjoints, then `backward_kernel`, all recomputed from the inputs.
Each recurrence needs temporary memory of `state / chunk` times that of `u` in float32; per direction, the forward pass
has one recurrence and the backward pass two.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mamba.mamba_ssm.ops.triton.launching import (
    BACKWARD_TILES,
    CARRY,
    FORWARD_TILES,
    SUM,
    Tile,
    fastest_tile,
    launch,
    row_distance,
    strides,
)
from mamba.mamba_ssm.ops.triton.row_sums import sum_rows
from mamba.mamba_ssm.ops.triton.selective_scan_backward import backward_kernel
from mamba.mamba_ssm.ops.triton.selective_scan_carry import carry_kernel
from mamba.mamba_ssm.ops.triton.selective_scan_forward import forward_kernel
from mamba.mamba_ssm.ops.triton.selective_scan_summary import summary_kernel
from mamba.mamba_ssm.ops.triton.selective_scan_sums import matrix_sum_kernel


class ScanArguments(NamedTuple):
    """The arguments of one bidirectional scan, named as in `bidirectional_scan`."""

    u: Tensor
    delta: Tensor
    A: Tensor | None
    A_b: Tensor | None
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool
    elemental_residual: bool
    masked: bool
    masked_backward: bool

    @property
    def directions(self) -> int:
        """Number of directions, 1 or 2."""
        return (self.A is not None) + (self.A_b is not None)

    def arranged(self) -> "ScanArguments":
        """Return a copy as the kernels read it: A and A_b (state, dim), a row of channels for each entry; no gaps."""
        A, A_b = (None if rate is None else rate.t().contiguous() for rate in (self.A, self.A_b))
        D, delta_bias = (None if t is None else t.contiguous() for t in (self.D, self.delta_bias))
        B, C = (matrix if matrix.stride(-1) == 1 else matrix.contiguous() for matrix in (self.B, self.C))
        return self._replace(A=A, A_b=A_b, B=B, C=C, D=D, delta_bias=delta_bias)

    def sizes(self) -> tuple:
        """Return everything the speed depends on, as the key of the fastest tile."""
        flags = self[-4:]
        return (*self.u.shape, *self.B.shape[2:], self.u.dtype, self.directions, self.z is not None, *flags)


class Pass(NamedTuple):
    """A forward or backward pass with a tile: sizes, buffers and the launch arguments shared by its kernels."""

    scan: ScanArguments
    tile: Tile
    chunks: int
    grid: tuple[int]
    buffer: Tensor
    step_sums: Tensor

    def common(self, grad_out: Tensor | None = None) -> dict:
        """Return the arguments of all kernels that read tiles."""
        scan = self.scan
        (batch, length, dim), (groups, state) = scan.u.shape, scan.B.shape[2:]
        return (
            dict(u=scan.u, delta=scan.delta, A=scan.A, A_b=scan.A_b, B=scan.B, C=scan.C, z=scan.z, buffer=self.buffer)
            | (strides("u", scan.u) | strides("delta", scan.delta) | strides("z", scan.z))
            | (strides("B", scan.B[..., 0], "blg") | strides("C", scan.C[..., 0], "blg"))
            | ({} if grad_out is None else strides("grad", grad_out))
            | dict(length=length, dim=dim, state=state, groups=groups, batch_size=batch)
            | dict(delta_bias=scan.delta_bias, HAS_BIAS=scan.delta_bias is not None, HAS_Z=scan.z is not None)
            | dict(chunks=self.chunks, CHUNK=self.tile.chunk, BLOCK=self.tile.block)
            | dict(FORWARD=scan.A is not None, BACKWARD=scan.A_b is not None, SOFTPLUS=scan.delta_softplus)
            | dict(MASKED=scan.masked, MASKED_BACKWARD=scan.masked_backward)
        )


def _carried_states(scan: ScanArguments, tile: Tile, grad_out: Tensor | None) -> Pass:
    """Run the first two kernels: compute the states and, with `grad_out`, the adjoints before every chunk."""
    if 2 * tile.chunk > tile.block or tile.warps > 1:
        raise ValueError(f"{tile}: a tile has one warp and at most 16 tokens, whose B and C one load brings")
    batch, length, dim = scan.u.shape
    state, groups = scan.B.shape[3], scan.B.shape[2]
    chunks = math.ceil(length / tile.chunk)
    grid = (batch * chunks * groups * math.ceil(dim // groups / tile.block),)
    sequences = scan.directions * (1 if grad_out is None else 2)
    rate = scan.A if scan.A is not None else scan.A_b
    buffer = rate.new_empty(sequences, chunks + 1, batch, state, dim)
    step_sums = rate.new_empty(chunks, batch, dim)
    run = Pass(scan, tile, chunks, grid, buffer, step_sums)
    adjoint = grad_out is not None
    source = grad_out if adjoint else scan.u  # never read without the adjoints
    launch(summary_kernel, grid, tile, **run.common(source), grad_out=source, step_sums=step_sums, ADJOINT=adjoint)
    carry_grid = (batch * math.ceil(state * dim / CARRY.block), sequences)
    tensors = dict(u=scan.u, buffer=buffer, step_sums=step_sums, A=scan.A, A_b=scan.A_b) | strides("u", scan.u)
    sizes = dict(length=length, chunks=chunks, batch_size=batch, dim=dim, state=state, ROWS=CARRY.chunk)
    directions = dict(FORWARD=scan.A is not None, BACKWARD=scan.A_b is not None, ADJOINT=adjoint)
    flags = directions | dict(RESIDUAL=scan.elemental_residual)
    launch(carry_kernel, carry_grid, CARRY, **tensors, **sizes, **flags, BLOCK=CARRY.block)
    return run


def scan_forward(*arguments) -> Tensor:
    """Compute out (batch, length, dim) of a scan; the arguments are those of `ScanArguments`, in order."""
    scan = ScanArguments(*arguments)
    if scan.u.numel() == 0:
        return scan.u.new_empty(scan.u.shape)
    tile = fastest_tile("scan forward", FORWARD_TILES, scan.sizes(), scan.u.device, lambda t: run_forward(scan, t))
    return run_forward(scan, tile)


def run_forward(scan: ScanArguments, tile: Tile) -> Tensor:
    """Run the three kernels of the forward scan with one tile."""
    scan = scan.arranged()
    run = _carried_states(scan, tile, None)
    out = scan.u.new_empty(scan.u.shape)
    launch(forward_kernel, run.grid, tile, **run.common(), D=scan.D, out=out, zero=0, HAS_D=scan.D is not None)
    return out


def scan_backward(grad_out: Tensor, *arguments, grad_z: Tensor | None = None) -> tuple[Tensor | None, ...]:
    """Compute the gradients of (u, delta, A, A_b, B, C, D, z, delta_bias), None for inputs that are None.

    Args:
        grad_out: (batch, length, dim).
        arguments: As those of `scan_forward`.
        grad_z: Where to write the gradient of z, (batch, length, dim) with rows at equal distances; None allocates it.
    """
    scan = ScanArguments(*arguments)
    if scan.u.numel() == 0:
        return tuple(None if t is None else torch.zeros_like(t).contiguous() for t in scan[:9])
    tile = fastest_tile(
        "scan backward", BACKWARD_TILES, scan.sizes(), scan.u.device, lambda t: run_backward(grad_out, scan, t, grad_z)
    )
    return run_backward(grad_out, scan, tile, grad_z)


def run_backward(
    grad_out: Tensor, scan: ScanArguments, tile: Tile, grad_z: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """Run the three kernels of the backward scan with one tile, and two that sum over their programs."""
    scan = scan.arranged()
    run = _carried_states(scan, tile, grad_out)
    batch, length, dim = scan.u.shape
    groups, state = scan.B.shape[2:]
    blocks = math.ceil(dim // groups / tile.block)
    buffer = run.buffer
    grad_u, grad_delta = scan.u.new_empty(scan.u.shape), scan.u.new_empty(scan.u.shape)
    if scan.z is None:
        grad_z = None
    elif grad_z is None:
        grad_z = scan.z.new_empty(scan.z.shape)
    matrix_shares = buffer.new_empty(blocks, batch, groups, run.chunks, state, 2, tile.chunk)
    D_shares = None if scan.D is None else torch.empty_like(run.step_sums)
    bias_shares = None if scan.delta_bias is None else torch.empty_like(run.step_sums)
    tokens = dict(grad_out=grad_out, grad_u=grad_u, grad_delta=grad_delta, grad_z=grad_z)
    parameters = dict(matrix_shares=matrix_shares, D_shares=D_shares, bias_shares=bias_shares, D=scan.D)
    flags = dict(RESIDUAL=scan.elemental_residual, HAS_D=scan.D is not None)
    shared = run.common(grad_out) | dict(grad_z_distance=0 if grad_z is None else row_distance(grad_z))
    launch(backward_kernel, run.grid, tile, **shared, **tokens, **parameters, **flags, zero=0)
    grad_B, grad_C = _sum_matrices(matrix_shares, scan)
    grad_A, grad_A_b = (None if rate is None else rate.new_empty(dim, state) for rate in (scan.A, scan.A_b))
    grad_D, grad_bias = (None if shares is None else shares.new_empty(dim) for shares in (D_shares, bias_shares))
    of_A, of_A_b = buffer[0, :-1], buffer[scan.directions - 1, :-1]  # where the kernel has left the shares
    pairs = [(of_A, grad_A), (of_A_b, grad_A_b), (D_shares, grad_D), (bias_shares, grad_bias)]
    sum_rows([(shares, sums) for shares, sums in pairs if sums is not None])
    return grad_u, grad_delta, grad_A, grad_A_b, grad_B, grad_C, grad_D, grad_z, grad_bias


def _sum_matrices(shares: Tensor, scan: ScanArguments) -> tuple[Tensor, Tensor]:
    """Sum the shares of `backward_kernel` in the gradients of B and C, in their types."""
    blocks, batch, groups, chunks, state, _, chunk = shares.shape
    grad_B, grad_C = (matrix.new_empty(matrix.shape) for matrix in (scan.B, scan.C))
    grid = (batch * groups * chunks * math.ceil(state * 2 * chunk / SUM.block),)
    sizes = dict(blocks=blocks, length=scan.u.shape[1], groups=groups, state=state, chunks=chunks)
    tensors = dict(shares=shares, grad_B=grad_B, grad_C=grad_C, elements=shares[0].numel())
    launch(matrix_sum_kernel, grid, SUM, **tensors, **sizes, CHUNK=chunk, BLOCK=SUM.block)
    return grad_B, grad_C
