"""Middle kernel of the scan: compute the state at the start of every chunk from the chunks' contributions.

The buffer is (sequences, chunks + 1, batch, state, dim), float32. A sequence is one recurrence over the chunks, in its
own direction: row p + 1 contains what the p-th chunk adds to a zero state. In place, row p becomes the state before
the p-th chunk, and the last row the final state. The decay of a chunk is exp(A * sum of its step sizes), so it needs
no buffer of that size.
"""

import triton
import triton.language as tl

from mamba.mamba_ssm.ops.triton.tiles import LOG2_E, buffer_row

RUNTIME = ["u_b", "u_l", "u_d", "length", "chunks", "batch_size", "dim", "state"]


@triton.jit(do_not_specialize=RUNTIME)
def carry_kernel(
    u, buffer, step_sums, A, A_b, u_b, u_l, u_d, length, chunks, batch_size, dim, state,
    FORWARD: tl.constexpr, BACKWARD: tl.constexpr, ADJOINT: tl.constexpr, RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of state * dim within the batch, sequences): the directions' states, then their adjoints.

    A, A_b: (state, dim). step_sums: (chunks, batch, dim). FORWARD, BACKWARD: the existing directions.
    ADJOINT: the second half of the buffer contains adjoints, which run over the chunks in the opposite order.
    RESIDUAL: states start from the direction's first input instead of 0. ROWS chunks are loaded together to hide the
    latency.
    """
    sequence = tl.program_id(1)
    blocks = tl.cdiv(state * dim, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    elements = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    inside = elements < state * dim
    elements = tl.minimum(elements, state * dim - 1)  # loads need no mask, as in `tiles`
    channels = elements % dim
    directions: tl.constexpr = 2 if FORWARD and BACKWARD else 1
    if FORWARD:
        is_forward = sequence % directions == 0
    else:
        is_forward = sequence < 0
    is_state = sequence < directions
    ascending = is_forward == is_state
    rate = tl.zeros([BLOCK], tl.float32)
    if FORWARD:
        rate += tl.load(A + elements, mask=is_forward, other=0.0)
    if BACKWARD:
        rate += tl.load(A_b + elements, mask=is_forward == 0, other=0.0)
    rate = rate * LOG2_E
    carried = tl.zeros([BLOCK], tl.float32)
    if RESIDUAL:
        token = tl.where(is_forward, 0, length - 1).to(tl.int64)
        first = batch * u_b + token * u_l + channels.to(tl.int64) * u_d
        carried += tl.load(u + first, mask=is_state, other=0.0).to(tl.float32)
    tl.store(buffer + buffer_row(sequence, 0, chunks, batch_size, batch, state * dim) + elements, carried, mask=inside)
    for start in range(1, chunks + 1, ROWS):
        decays = ()
        added = ()
        for r in tl.static_range(ROWS):
            row = tl.minimum(start + r, chunks)
            chunk = tl.where(ascending, row - 1, chunks - row).to(tl.int64)
            steps = tl.load(step_sums + (chunk * batch_size + batch) * dim + channels)
            at = buffer_row(sequence, row, chunks, batch_size, batch, state * dim) + elements
            decays = decays + (tl.exp2(steps * rate),)
            added = added + (tl.load(buffer + at),)
        for r in tl.static_range(ROWS):
            row = start + r
            carried = decays[r] * carried + added[r]
            at = buffer_row(sequence, row, chunks, batch_size, batch, state * dim) + elements
            tl.store(buffer + at, carried, mask=inside & (row <= chunks))
