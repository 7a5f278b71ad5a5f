"""Last kernel of the backward scan: all gradients of a tile, with states and adjoints recomputed within the chunk.

Let k_t = exp(d_t A) h_{t-1} be the carried state, mu_t its adjoint and nu_t the adjoint of the drive d_t B_t u_t (mu_t
minus the gradient of what is read if the mask hides the token's own input). The gradient of the exponent is mu_t k_t.
"""

import triton
import triton.language as tl

from mamba.mamba_ssm.ops.triton.tiles import (
    RUNTIME,
    add_scaled,
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
    read_rows,
    sigmoid,
    step_rows,
    store_rows,
    token_numbers,
    zero_rows,
)


@triton.jit
def _load_first(rates, states, adjoints, state, dim):
    """Load a direction's rates, states and adjoints of entry 0, and the states and adjoints of entry 1."""
    second = tl.minimum(1, state - 1)
    rate, initial, inflow = tl.load(rates), tl.load(states), tl.load(adjoints)
    return rate, initial, inflow, tl.load(states + second * dim), tl.load(adjoints + second * dim)


@triton.jit
def _load_next(ahead, rates, states, adjoints, n, state, dim):
    """Return what `_load_first` does, for entries n + 1 and n + 2. `ahead`: the same, for n and n + 1."""
    following, later = tl.minimum(n + 1, state - 1), tl.minimum(n + 2, state - 1)
    rate = tl.load(rates + following * dim)
    return rate, ahead[3], ahead[4], tl.load(states + later * dim), tl.load(adjoints + later * dim)


@triton.jit
def _direction(
    steps, scaled, grad_steps, grad_reads, B_n, now, token, CHUNK: tl.constexpr, MASKED: tl.constexpr,
    REVERSE: tl.constexpr,
):  # fmt: skip
    """Compute what C reads, nu, updated grad_steps, gradient of A and the adjoint that flows out, for one entry.

    now: the entry's decay rate, the state and the adjoint that enter the tile, as from `_load_first`.
    """
    rate, initial, inflow = now[0], now[1], now[2]
    decays = decay_rows(steps, rate, CHUNK)
    carried, _end = carried_rows(decays, scaled, B_n, initial, CHUNK, REVERSE=REVERSE)
    shown = hide_token(grad_reads, token, CHUNK, MASKED)
    inflows, outflow = adjoint_rows(decays, shown, inflow, CHUNK, REVERSE=not REVERSE)
    grad_rate = tl.zeros_like(rate)
    with_share = ()
    nu = ()
    for t in tl.static_range(CHUNK):
        mu = shown[t] + inflows[t]
        grad_exponent = mu * carried[t]
        grad_rate += grad_exponent * steps[t]
        with_share = with_share + (grad_steps[t] + grad_exponent * rate,)
        nu = nu + (inflows[t] if MASKED else mu,)
    return read_rows(carried, scaled, B_n, token, CHUNK, MASKED), nu, with_share, grad_rate, outflow


@triton.jit
def _share_rows(rows, HALF: tl.constexpr, DISTANCE: tl.constexpr, BLOCK: tl.constexpr):
    """Sum 2 HALF rows over pairs of threads: the lower of each pair gets the first half, the upper the second."""
    thread = tl.arange(0, BLOCK)
    upper = (thread & DISTANCE) != 0
    kept = ()
    for i in tl.static_range(HALF):
        passed = tl.gather(tl.where(upper, rows[i], rows[i + HALF]), thread ^ DISTANCE, 0)
        kept = kept + (tl.where(upper, rows[i + HALF], rows[i]) + passed,)
    return kept


@triton.jit
def _sum_channels(rows, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Sum ROWS rows (a power of 2, <= 32) over the threads of a warp: thread t gets the sum of row t * ROWS // 32.

    At each step, pairs of threads share the rows, so half as many are left. This takes ROWS - 1 shuffles, and one
    for each step after the last row, instead of five for each row.
    """
    for step in tl.static_range(5):
        if ROWS >> step > 1:
            rows = _share_rows(rows, ROWS >> (step + 1), 16 >> step, BLOCK)
        else:
            rows = (rows[0] + tl.gather(rows[0], tl.arange(0, BLOCK) ^ (16 >> step), 0),)
    return rows[0]


@triton.jit
def _add_rows(left, right, CHUNK: tl.constexpr):
    rows = ()
    for t in tl.static_range(CHUNK):
        rows = rows + (left[t] + right[t],)
    return rows


@triton.jit
def _gate_gradient(grads, y, inputs, gates, skip, CHUNK: tl.constexpr):
    """Compute the gradient of z: grad_out * (sum before the gate) * silu'(z)."""
    rows = ()
    for t in tl.static_range(CHUNK):
        s = sigmoid(gates[t])
        rows = rows + (grads[t] * (y[t] + skip * inputs[t]) * s * (1.0 + gates[t] * (1.0 - s)),)
    return rows


@triton.jit
def _store_token_gradients(
    grad_u, grad_delta, grad_z, D_shares, bias_shares, grad_out, u, delta, z, D, delta_bias,
    u_b, u_l, u_d, delta_b, delta_l, delta_d, z_b, z_l, z_d, grad_b, grad_l, grad_d, grad_z_distance,
    steps, grad_y, y, grad_input, grad_steps, grad_first, grad_last,
    batch, chunk, batch_size, length, dim, channels, inside, directions: tl.constexpr,
    SOFTPLUS: tl.constexpr, RESIDUAL: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Store the gradients of u, delta and z, and the tile's partial sums of those of D and the bias.

    grad_first, grad_last: the gradients of the initial states, which RESIDUAL takes from the first and the last token.
    """
    start = chunk * CHUNK
    bias = load_channels(delta_bias, channels, HAS_BIAS)
    skip = directions * load_channels(D, channels, HAS_D)
    inputs = load_rows(u, batch, start, length, channels, u_b, u_l, u_d, CHUNK)
    raws = load_rows(delta, batch, start, length, channels, delta_b, delta_l, delta_d, CHUNK)
    of_u = ()
    of_delta = ()
    bias_share = tl.zeros_like(bias)
    D_share = tl.zeros_like(bias)
    for t in tl.static_range(CHUNK):
        grad = grad_input[t] * steps[t] + skip * grad_y[t]
        if RESIDUAL:
            grad += tl.where(start + t == 0, grad_first, 0.0) + tl.where(start + t == length - 1, grad_last, 0.0)
        of_u = of_u + (grad,)
        grad_raw = grad_steps[t] + grad_input[t] * inputs[t]
        if SOFTPLUS:
            grad_raw *= sigmoid(raws[t] + bias)
        of_delta = of_delta + (grad_raw,)
        bias_share += tl.where(start + t < length, grad_raw, 0.0)
        D_share += grad_y[t] * inputs[t]
    store_rows(grad_u, of_u, batch, start, length, dim, channels, inside, CHUNK)
    store_rows(grad_delta, of_delta, batch, start, length, dim, channels, inside, CHUNK)
    share = (chunk * batch_size + batch) * dim + channels
    if HAS_BIAS:
        tl.store(bias_shares + share, bias_share, mask=inside)
    if HAS_D:
        tl.store(D_shares + share, directions * D_share, mask=inside)
    if HAS_Z:
        grads = load_rows(grad_out, batch, start, length, channels, grad_b, grad_l, grad_d, CHUNK)
        gates = load_rows(z, batch, start, length, channels, z_b, z_l, z_d, CHUNK)
        grads = _gate_gradient(grads, y, inputs, gates, skip, CHUNK)
        store_rows(grad_z, grads, batch, start, length, grad_z_distance, channels, inside, CHUNK)


@triton.jit
def _load_tile(
    grad_out, u, delta, z, delta_bias, u_b, u_l, u_d, delta_b, delta_l, delta_d, z_b, z_l, z_d, grad_b, grad_l, grad_d,
    batch, start, length, channels, inside,
    SOFTPLUS: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Load what the loop over state entries needs: step sizes, step sizes times inputs, gradients before the gate."""
    bias = load_channels(delta_bias, channels, HAS_BIAS)
    raws = load_rows(delta, batch, start, length, channels, delta_b, delta_l, delta_d, CHUNK)
    steps = step_rows(raws, bias, start, length, inside, SOFTPLUS, CHUNK)
    inputs = load_rows(u, batch, start, length, channels, u_b, u_l, u_d, CHUNK)
    scaled = multiply_rows(steps, inputs, CHUNK)
    grad_y = load_rows(grad_out, batch, start, length, channels, grad_b, grad_l, grad_d, CHUNK)
    if HAS_Z:
        gates = load_rows(z, batch, start, length, channels, z_b, z_l, z_d, CHUNK)
        grad_y = gate_rows(grad_y, gates, CHUNK)
    grad_y = known_rows(grad_y, start, length, inside, CHUNK)
    return steps, scaled, grad_y


@triton.jit(do_not_specialize=[*RUNTIME, "grad_z_distance"])
def backward_kernel(
    grad_out, u, delta, A, A_b, B, C, D, z, delta_bias, buffer,
    grad_u, grad_delta, grad_z, matrix_shares, D_shares, bias_shares,
    u_b, u_l, u_d, delta_b, delta_l, delta_d, z_b, z_l, z_d, grad_b, grad_l, grad_d,
    B_b, B_l, B_g, C_b, C_l, C_g, length, dim, state, groups, batch_size, chunks, zero, grad_z_distance,
    FORWARD: tl.constexpr, BACKWARD: tl.constexpr, SOFTPLUS: tl.constexpr,
    MASKED: tl.constexpr, MASKED_BACKWARD: tl.constexpr, RESIDUAL: tl.constexpr,
    HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid as in `place`, one warp a program. The caller sums over programs, so no atomics are needed.

    A, A_b: (state, dim). buffer: states and adjoints before the chunks; the rows of states are overwritten with each
    chunk's part of the gradient of A. grad_u, grad_delta, grad_z: (batch, length, dim), the last with rows
    grad_z_distance apart. matrix_shares: (blocks, batch, groups, chunks, state, 2, CHUNK), partial sums per block of
    the gradients of B and C. D_shares, bias_shares: (chunks, batch, dim), partial sums per chunk. zero is 0, which
    the compiler must not know: it would keep the program's place and the addresses of all rows in registers throughout
    the loop, because the rows are loaded again at the end.
    """
    batch, chunk, group, block, channels, inside = place(chunks, dim, groups, BLOCK)
    start = chunk * CHUNK
    steps, scaled, grad_y = _load_tile(
        grad_out, u, delta, z, delta_bias, u_b, u_l, u_d, delta_b, delta_l, delta_d, z_b, z_l, z_d, grad_b, grad_l,
        grad_d, batch, start, length, channels, inside, SOFTPLUS, HAS_Z, HAS_BIAS, CHUNK,
    )  # fmt: skip
    entries = matrix_pointers(B, C, batch, start, length, group, B_b, B_l, B_g, C_b, C_l, C_g, CHUNK, BLOCK)
    next_entries = tl.load(entries)
    slot: tl.constexpr = 1 if FORWARD else 0
    directions: tl.constexpr = slot + (1 if BACKWARD else 0)
    sequence_size = buffer_row(1, 0, chunks, batch_size, 0, state * dim)
    ascending = buffer + buffer_row(0, chunk, chunks, batch_size, batch, state * dim) + channels
    descending = buffer + buffer_row(0, chunks - 1 - chunk, chunks, batch_size, batch, state * dim) + channels
    if FORWARD:
        adjoints = descending + directions * sequence_size
        ahead = _load_first(A + channels, ascending, adjoints, state, dim)
    if BACKWARD:
        states_b = descending + slot * sequence_size
        adjoints_b = ascending + (directions + slot) * sequence_size
        ahead_b = _load_first(A_b + channels, states_b, adjoints_b, state, dim)
    row: tl.constexpr = 2 * CHUNK
    share_index = ((block * batch_size + batch) * groups + group) * chunks + chunk
    shares = matrix_shares + share_index * state * row + tl.arange(0, BLOCK) * row // BLOCK
    none = tl.zeros([BLOCK], tl.float32)
    grad_first, grad_last = none, none
    y, grad_input, grad_steps = zero_rows(none, CHUNK), zero_rows(none, CHUNK), zero_rows(none, CHUNK)
    for n in range(0, state):
        B_n, C_n = token_numbers(next_entries, 0, CHUNK, BLOCK), token_numbers(next_entries, CHUNK, CHUNK, BLOCK)
        next_entries = tl.load(entries + tl.minimum(n + 1, state - 1))
        if FORWARD:
            now, ahead = ahead, _load_next(ahead, A + channels, ascending, adjoints, n, state, dim)
        if BACKWARD:
            now_b, ahead_b = ahead_b, _load_next(ahead_b, A_b + channels, states_b, adjoints_b, n, state, dim)
        grad_reads = multiply_rows(grad_y, C_n, CHUNK)
        if FORWARD:
            reads, nu, grad_steps, grad_rate, outflow = _direction(
                steps, scaled, grad_steps, grad_reads, B_n, now, -start, CHUNK, MASKED, False
            )
            grad_first += outflow
            tl.store(ascending + n * dim, grad_rate, mask=inside)
        if BACKWARD:
            reads_b, nu_b, grad_steps, grad_rate, outflow = _direction(
                steps, scaled, grad_steps, grad_reads, B_n, now_b, length - 1 - start, CHUNK, MASKED_BACKWARD, True
            )
            grad_last += outflow
            tl.store(states_b + n * dim, grad_rate, mask=inside)
            if FORWARD:
                reads, nu = _add_rows(reads, reads_b, CHUNK), _add_rows(nu, nu_b, CHUNK)
            else:
                reads, nu = reads_b, nu_b
        grad_input = add_scaled(grad_input, nu, B_n, CHUNK)
        if HAS_Z:
            y = add_scaled(y, reads, C_n, CHUNK)
        of_matrices = multiply_rows(nu, scaled, CHUNK) + multiply_rows(reads, grad_y, CHUNK)
        tl.store(shares + n * row, _sum_channels(of_matrices, row, BLOCK))
    batch, chunk, group, block, channels, inside = place(chunks + zero, dim, groups, BLOCK)
    _store_token_gradients(
        grad_u, grad_delta, grad_z, D_shares, bias_shares, grad_out, u, delta, z, D, delta_bias,
        u_b, u_l, u_d, delta_b, delta_l, delta_d, z_b, z_l, z_d, grad_b, grad_l, grad_d, grad_z_distance,
        steps, grad_y, y, grad_input, grad_steps, grad_first, grad_last, batch, chunk, batch_size, length, dim,
        channels, inside, directions, SOFTPLUS, RESIDUAL, HAS_D, HAS_Z, HAS_BIAS, CHUNK,
    )  # fmt: skip
