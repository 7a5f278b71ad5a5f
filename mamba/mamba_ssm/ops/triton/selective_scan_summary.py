"""First kernel of the scan: what each chunk of tokens adds to its initial state.

A chunk with initial state h ends in the state exp(A * sum of its step sizes) h + e, where e is its final state for a
zero initial state. The kernel stores the sum of the step sizes and e. In the backward pass it also stores the same for
the adjoints, which run in the opposite direction.
"""

import triton
import triton.language as tl

from mamba.mamba_ssm.ops.triton.tiles import (
    RUNTIME,
    adjoint_rows,
    buffer_row,
    carried_rows,
    decay_rows,
    gate_rows,
    hide_token,
    known_rows,
    load_channels,
    load_rows,
    matrix_pointers,
    multiply_rows,
    place,
    step_rows,
    token_numbers,
)


@triton.jit(do_not_specialize=RUNTIME)
def summary_kernel(
    u, delta, A, A_b, B, C, z, delta_bias, grad_out, buffer, step_sums,
    u_b, u_l, u_d, delta_b, delta_l, delta_d, z_b, z_l, z_d, grad_b, grad_l, grad_d,
    B_b, B_l, B_g, C_b, C_l, C_g, length, dim, state, groups, batch_size, chunks,
    FORWARD: tl.constexpr, BACKWARD: tl.constexpr, ADJOINT: tl.constexpr, SOFTPLUS: tl.constexpr,
    MASKED: tl.constexpr, MASKED_BACKWARD: tl.constexpr,
    HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid as in `place`. A, A_b: (state, dim). See `selective_scan_carry` for `buffer`; loads ahead as the others."""
    batch, chunk, group, _, channels, inside = place(chunks, dim, groups, BLOCK)
    start = chunk * CHUNK
    bias = load_channels(delta_bias, channels, HAS_BIAS)
    raws = load_rows(delta, batch, start, length, channels, delta_b, delta_l, delta_d, CHUNK)
    steps = step_rows(raws, bias, start, length, inside, SOFTPLUS, CHUNK)
    inputs = load_rows(u, batch, start, length, channels, u_b, u_l, u_d, CHUNK)
    scaled = multiply_rows(steps, inputs, CHUNK)
    step_sum = steps[0]
    for t in tl.static_range(1, CHUNK):
        step_sum += steps[t]
    tl.store(step_sums + (chunk * batch_size + batch) * dim + channels, step_sum, mask=inside)
    if ADJOINT:
        grad_y = load_rows(grad_out, batch, start, length, channels, grad_b, grad_l, grad_d, CHUNK)
        if HAS_Z:
            gates = load_rows(z, batch, start, length, channels, z_b, z_l, z_d, CHUNK)
            grad_y = gate_rows(grad_y, gates, CHUNK)
        grad_y = known_rows(grad_y, start, length, inside, CHUNK)
    entries = matrix_pointers(B, C, batch, start, length, group, B_b, B_l, B_g, C_b, C_l, C_g, CHUNK, BLOCK)
    next_entries = tl.load(entries)
    if FORWARD:
        next_rate = tl.load(A + channels)
    if BACKWARD:
        next_rate_b = tl.load(A_b + channels)
    slot: tl.constexpr = 1 if FORWARD else 0
    directions: tl.constexpr = slot + (1 if BACKWARD else 0)
    sequence_size = buffer_row(1, 0, chunks, batch_size, 0, state * dim)
    ascending = buffer + buffer_row(0, chunk + 1, chunks, batch_size, batch, state * dim) + channels
    descending = buffer + buffer_row(0, chunks - chunk, chunks, batch_size, batch, state * dim) + channels
    zero = tl.zeros_like(bias)
    for n in range(0, state):
        following = tl.minimum(n + 1, state - 1)
        B_n = token_numbers(next_entries, 0, CHUNK, BLOCK)
        if ADJOINT:
            grad_reads = multiply_rows(grad_y, token_numbers(next_entries, CHUNK, CHUNK, BLOCK), CHUNK)
        next_entries = tl.load(entries + following)
        if FORWARD:
            decays = decay_rows(steps, next_rate, CHUNK)
            next_rate = tl.load(A + following * dim + channels)
            _carried, added = carried_rows(decays, scaled, B_n, zero, CHUNK, REVERSE=False)
            tl.store(ascending + n * dim, added, mask=inside)
            if ADJOINT:
                shown = hide_token(grad_reads, -start, CHUNK, MASKED)
                _inflows, added = adjoint_rows(decays, shown, zero, CHUNK, REVERSE=True)
                tl.store(descending + directions * sequence_size + n * dim, added, mask=inside)
        if BACKWARD:
            decays = decay_rows(steps, next_rate_b, CHUNK)
            next_rate_b = tl.load(A_b + following * dim + channels)
            _carried, added = carried_rows(decays, scaled, B_n, zero, CHUNK, REVERSE=True)
            tl.store(descending + slot * sequence_size + n * dim, added, mask=inside)
            if ADJOINT:
                shown = hide_token(grad_reads, length - 1 - start, CHUNK, MASKED_BACKWARD)
                _inflows, added = adjoint_rows(decays, shown, zero, CHUNK, REVERSE=False)
                tl.store(ascending + (directions + slot) * sequence_size + n * dim, added, mask=inside)
