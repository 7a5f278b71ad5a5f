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
    load_rows,
    load_tokens,
    multiply_rows,
    place,
    read_rows,
    step_rows,
    store_rows,
    zero_rows,
)


@triton.jit(do_not_specialize=RUNTIME)
def forward_kernel(
    u, delta, A, A_b, B, C, D, z, delta_bias, buffer, out,
    u_b, u_l, u_d, delta_b, delta_l, delta_d, z_b, z_l, z_d,
    length, padded, dim, state, groups, batch_size, chunks,
    FORWARD: tl.constexpr, BACKWARD: tl.constexpr, SOFTPLUS: tl.constexpr,
    MASKED: tl.constexpr, MASKED_BACKWARD: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of channels * chunks, batch). `buffer` has the states before the chunks; out is contiguous."""
    batch, chunk, group, _, channels, inside = place(length, dim, groups, CHUNK, BLOCK)
    start = chunk * CHUNK
    bias = load_channels(delta_bias, channels, inside, HAS_BIAS)
    raws = load_rows(delta, batch, start, length, channels, inside, delta_b, delta_l, delta_d, CHUNK)
    steps = step_rows(raws, bias, start, length, inside, SOFTPLUS, CHUNK)
    inputs = load_rows(u, batch, start, length, channels, inside, u_b, u_l, u_d, CHUNK)
    scaled = multiply_rows(steps, inputs, CHUNK)
    at_matrix = (batch * groups + group) * state * padded + start
    slot: tl.constexpr = 1 if FORWARD else 0
    directions: tl.constexpr = slot + (1 if BACKWARD else 0)
    ascending = buffer + buffer_row(0, chunk, chunks, batch_size, batch, state * dim) + channels
    descending = buffer + buffer_row(slot, chunks - 1 - chunk, chunks, batch_size, batch, state * dim) + channels
    y = zero_rows(bias, CHUNK)
    for n in range(0, state):
        B_n = load_tokens(B + at_matrix + n * padded, CHUNK)
        C_n = load_tokens(C + at_matrix + n * padded, CHUNK)
        if FORWARD:
            initial = tl.load(ascending + n * dim, mask=inside, other=0.0)
            decays = decay_rows(steps, tl.load(A + channels * state + n, mask=inside, other=0.0), CHUNK)
            carried, _end = carried_rows(decays, scaled, B_n, initial, CHUNK, REVERSE=False)
            y = add_scaled(y, read_rows(carried, scaled, B_n, -start, CHUNK, MASKED), C_n, CHUNK)
        if BACKWARD:
            initial = tl.load(descending + n * dim, mask=inside, other=0.0)
            decays = decay_rows(steps, tl.load(A_b + channels * state + n, mask=inside, other=0.0), CHUNK)
            carried, _end = carried_rows(decays, scaled, B_n, initial, CHUNK, REVERSE=True)
            reads = read_rows(carried, scaled, B_n, length - 1 - start, CHUNK, MASKED_BACKWARD)
            y = add_scaled(y, reads, C_n, CHUNK)
    if HAS_D:
        skip = directions * load_channels(D, channels, inside, HAS_D)
        inputs = load_rows(u, batch, start, length, channels, inside, u_b, u_l, u_d, CHUNK)
        with_skip = ()
        for t in tl.static_range(CHUNK):
            with_skip = with_skip + (y[t] + skip * inputs[t],)
        y = with_skip
    if HAS_Z:
        y = gate_rows(y, load_rows(z, batch, start, length, channels, inside, z_b, z_l, z_d, CHUNK), CHUNK)
    store_rows(out, y, batch, start, length, dim, channels, inside, CHUNK)
