"""Sum of the gradients of B and C over the programs of the scan's backward pass; those of parameters: `row_sums`."""

import triton
import triton.language as tl


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
