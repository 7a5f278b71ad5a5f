"""Last kernel of the forward scan: both directions, residual, mask, skip and gate, one tile of tokens at a time."""

import triton
import triton.language as tl

from mamba.mamba_ssm.ops.triton.tiles import (
    RUNTIME,
    add_scaled,
    buffer_row,
    carried_rows,
    decay_rows,
    gate_rows,
    load_channels,
    load_entry,
    load_rows,
    matrix_pointers,
    multiply_rows,
    place,
    read_rows,
    step_rows,
    store_rows,
    token_numbers,
    zero_rows,
)


@triton.jit(do_not_specialize=RUNTIME)
def forward_kernel(
    u, delta, A, A_b, B, C, D, z, delta_bias, buffer, out,
    u_b, u_l, u_d, delta_b, delta_l, delta_d, z_b, z_l, z_d, B_b, B_l, B_g, C_b, C_l, C_g,
    length, dim, state, groups, batch_size, chunks, zero,
    FORWARD: tl.constexpr, BACKWARD: tl.constexpr, SOFTPLUS: tl.constexpr,
    MASKED: tl.constexpr, MASKED_BACKWARD: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid as in `place`. A, A_b: (state, dim). `buffer` has the states before the chunks; out is contiguous.

    What a state entry needs is loaded one turn of the loop ahead, because few warps are there to hide the latency.
    zero: as in `backward_kernel`.
    """
    batch, chunk, group, _, channels, inside = place(chunks, dim, groups, BLOCK)
    start = chunk * CHUNK
    bias = load_channels(delta_bias, channels, HAS_BIAS)
    raws = load_rows(delta, batch, start, length, channels, delta_b, delta_l, delta_d, CHUNK)
    steps = step_rows(raws, bias, start, length, inside, SOFTPLUS, CHUNK)
    inputs = load_rows(u, batch, start, length, channels, u_b, u_l, u_d, CHUNK)
    scaled = multiply_rows(steps, inputs, CHUNK)
    entries = matrix_pointers(B, C, batch, start, length, group, B_b, B_l, B_g, C_b, C_l, C_g, CHUNK, BLOCK)
    next_entries = tl.load(entries)
    slot: tl.constexpr = 1 if FORWARD else 0
    directions: tl.constexpr = slot + (1 if BACKWARD else 0)
    if FORWARD:
        ascending = buffer + buffer_row(0, chunk, chunks, batch_size, batch, state * dim) + channels
        next_rate, next_state = load_entry(A + channels, ascending, 0, dim)
    if BACKWARD:
        descending = buffer + buffer_row(slot, chunks - 1 - chunk, chunks, batch_size, batch, state * dim) + channels
        next_rate_b, next_state_b = load_entry(A_b + channels, descending, 0, dim)
    y = zero_rows(bias, CHUNK)
    for n in range(0, state):
        following = tl.minimum(n + 1, state - 1)
        B_n, C_n = token_numbers(next_entries, 0, CHUNK, BLOCK), token_numbers(next_entries, CHUNK, CHUNK, BLOCK)
        next_entries = tl.load(entries + following)
        if FORWARD:
            rate, initial = next_rate, next_state
            next_rate, next_state = load_entry(A + channels, ascending, following, dim)
            carried, _end = carried_rows(decay_rows(steps, rate, CHUNK), scaled, B_n, initial, CHUNK, REVERSE=False)
            y = add_scaled(y, read_rows(carried, scaled, B_n, -start, CHUNK, MASKED), C_n, CHUNK)
        if BACKWARD:
            rate, initial = next_rate_b, next_state_b
            next_rate_b, next_state_b = load_entry(A_b + channels, descending, following, dim)
            carried, _end = carried_rows(decay_rows(steps, rate, CHUNK), scaled, B_n, initial, CHUNK, REVERSE=True)
            reads = read_rows(carried, scaled, B_n, length - 1 - start, CHUNK, MASKED_BACKWARD)
            y = add_scaled(y, reads, C_n, CHUNK)
    again = start + zero
    if HAS_D:
        skip = directions * load_channels(D, channels, HAS_D)
        inputs = load_rows(u, batch, again, length, channels, u_b, u_l, u_d, CHUNK)
        with_skip = ()
        for t in tl.static_range(CHUNK):
            with_skip = with_skip + (y[t] + skip * inputs[t],)
        y = with_skip
    if HAS_Z:
        y = gate_rows(y, load_rows(z, batch, again, length, channels, z_b, z_l, z_d, CHUNK), CHUNK)
    store_rows(out, y, batch, again, length, dim, channels, inside, CHUNK)
