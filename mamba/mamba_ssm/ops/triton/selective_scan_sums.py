"""Sums over the programs of the scan's backward pass, in a fixed order: no atomics, the same to the bit every time."""

import triton
import triton.language as tl

from mamba.mamba_ssm.ops.triton.tiles import buffer_row


@triton.jit(do_not_specialize=["blocks", "length", "groups", "state", "chunks", "elements"])
def matrix_sum_kernel(
    shares, grad_B, grad_C, blocks, length, groups, state, chunks, elements, CHUNK: tl.constexpr, BLOCK: tl.constexpr
):
    """Sum shares (blocks, batch, groups, chunks, state, 2, CHUNK) over the blocks and arrange them like B and C.

    Grid (pieces of a chunk within chunks within groups within the batch). grad_B, grad_C: (batch, length, groups,
    state), contiguous. elements: those of one block.
    """
    pieces = tl.cdiv(state * 2 * CHUNK, BLOCK)
    piece = tl.program_id(0) % pieces
    index = tl.program_id(0) // pieces  # of the chunk in (batch, groups, chunks)
    chunk = index % chunks
    group = index // chunks % groups
    batch = (index // chunks // groups).to(tl.int64)
    within = piece * BLOCK + tl.arange(0, BLOCK)
    entry, row = within // (2 * CHUNK), within % (2 * CHUNK)
    shares += index.to(tl.int64) * state * 2 * CHUNK + within
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(0, blocks):
        total += tl.load(shares, mask=entry < state, other=0.0)
        shares += elements
    token = chunk * CHUNK + row % CHUNK
    at = ((batch * length + token) * groups + group) * state + entry
    known = (entry < state) & (token < length)
    tl.store(grad_B + at, total.to(grad_B.dtype.element_ty), mask=known & (row < CHUNK))
    tl.store(grad_C + at, total.to(grad_C.dtype.element_ty), mask=known & (row >= CHUNK))


@triton.jit(do_not_specialize=["rows", "chunks", "batch_size", "dim", "state"])
def rate_sum_kernel(
    buffer, grad_A, grad_A_b, rows, chunks, batch_size, dim, state,
    FORWARD: tl.constexpr, BACKWARD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the first `rows` rows (state, dim) of each direction in `buffer`; grad_A, grad_A_b: (dim, state).

    Grid (blocks of state * dim, directions). PyTorch's sum takes several times as long. ROWS rows are loaded together
    to hide the latency.
    """
    elements = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = elements < state * dim
    sequence = tl.program_id(1)
    pointer = (
        buffer + buffer_row(sequence, 0, chunks, batch_size, 0, state * dim) + tl.minimum(elements, state * dim - 1)
    )
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, rows, ROWS):
        loaded = ()
        for r in tl.static_range(ROWS):
            row = tl.minimum(start + r, rows - 1).to(tl.int64)
            loaded = loaded + (tl.load(pointer + row * state * dim),)
        for r in tl.static_range(ROWS):
            total += tl.where(start + r < rows, loaded[r], 0.0)
    at = elements % dim * state + elements // dim
    if FORWARD:
        tl.store(grad_A + at, total, mask=inside & (sequence == 0))
    if BACKWARD:
        tl.store(grad_A_b + at, total, mask=inside & (sequence == (1 if FORWARD else 0)))
