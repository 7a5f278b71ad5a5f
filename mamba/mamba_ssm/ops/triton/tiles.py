"""Functions shared by the scan kernels: position of a program, loading and storing rows, step sizes, recurrences.

A program processes a tile of CHUNK tokens x BLOCK channels and loops over the state entries. A row (BLOCK channels of
one token) has one channel per thread, and a tile is a tuple of CHUNK rows, so the recurrences over time run in
registers, without shuffles or barriers, and each memory access is one coalesced row. All arithmetic is float32.
"""

import triton
import triton.language as tl

STRIDES = [f"{name}_{axis}" for name in ("u", "delta", "z", "grad") for axis in "bld"]
STRIDES += [f"{name}_{axis}" for name in "BC" for axis in "blg"]
RUNTIME = [*STRIDES, "length", "dim", "state", "groups", "batch_size", "chunks", "zero"]
"""Integer arguments of the scan kernels, for whose values they are not specialised."""
LOG2_E = tl.constexpr(1.4426950408889634)
SOFTPLUS_LINEAR = tl.constexpr(20.0)  # above it softplus(x) is x, PyTorch's threshold


@triton.jit
def place(chunks, dim, groups, BLOCK: tl.constexpr):
    """Return a program's (batch, chunk, group, block within the group, channels, which of them exist).

    The grid has one axis, because the others end at 65,535: blocks of channels within groups within chunks within the
    batch. A block belongs to one group. Beyond the group's last channel, `channels` repeats it, so that loads need no
    mask; stores do.
    """
    per_group = dim // groups
    blocks = tl.cdiv(per_group, BLOCK)
    index = tl.program_id(0)
    block = index % blocks
    index = index // blocks
    group = index % groups
    index = index // groups
    within = block * BLOCK + tl.arange(0, BLOCK)
    channels = group * per_group + tl.minimum(within, per_group - 1)
    return (index // chunks).to(tl.int64), index % chunks, group, block, channels, within < per_group


@triton.jit
def load_rows(pointer, batch, start, length, channels, stride_b, stride_l, stride_d, CHUNK: tl.constexpr):
    """Load the tile's rows of a (batch, length, dim) tensor as float32; 64-bit offsets.

    Rows beyond the length repeat the last one. Without masks, for which a thread has only seven predicate registers,
    the compiler can start all loads before it waits for the first one.
    """
    rows = ()
    pointer += batch * stride_b + channels.to(tl.int64) * stride_d
    for t in tl.static_range(CHUNK):
        token = tl.minimum(start + t, length - 1).to(tl.int64)
        rows = rows + (tl.load(pointer + token * stride_l).to(tl.float32),)
    return rows


@triton.jit
def known_rows(rows, start, length, inside, CHUNK: tl.constexpr):
    """Set rows beyond the length and channels that do not exist to 0."""
    known = ()
    for t in tl.static_range(CHUNK):
        known = known + (tl.where(inside & (start + t < length), rows[t], 0.0),)
    return known


@triton.jit
def store_rows(pointer, rows, batch, start, length, distance, columns, inside, CHUNK: tl.constexpr):
    """Store the tile's rows in a (batch, length, dim) tensor, in its type.

    distance: that of its rows in elements, dim or more; the channels have no gaps.
    """
    pointer += (batch * length + start) * distance + columns
    for t in tl.static_range(CHUNK):
        tl.store(pointer, rows[t].to(pointer.dtype.element_ty), mask=inside & (start + t < length))
        pointer += distance


@triton.jit
def load_channels(pointer, channels, PRESENT: tl.constexpr):
    """Load one float32 value per channel, 0 if the tensor is absent."""
    if PRESENT:
        return tl.load(pointer + channels).to(tl.float32)
    else:
        return tl.zeros_like(channels).to(tl.float32)


@triton.jit
def step_size(raw, SOFTPLUS: tl.constexpr):
    """Compute softplus(raw) or raw; log1p is log(w) e / (w - 1) with w = 1 + e rounded (Kahan), exact for small e."""
    if SOFTPLUS:
        e = tl.exp(tl.minimum(raw, SOFTPLUS_LINEAR))
        w = 1.0 + e
        small = w == 1.0
        log1p = tl.where(small, e, tl.log(w) * (e / tl.where(small, 1.0, w - 1.0)))
        return tl.where(raw > SOFTPLUS_LINEAR, raw, log1p)
    else:
        return raw


@triton.jit
def step_rows(raws, bias, start, length, inside, SOFTPLUS: tl.constexpr, CHUNK: tl.constexpr):
    """Compute the step sizes of all rows, 0 outside the tensor, where the state does not change."""
    steps = ()
    for t in tl.static_range(CHUNK):
        steps = steps + (step_size(raws[t] + bias, SOFTPLUS),)
    return known_rows(steps, start, length, inside, CHUNK)


@triton.jit
def sigmoid(x):
    """Compute 1 / (1 + exp(-x)); an exp that overflows correctly yields 1 / inf = 0."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def multiply_rows(left, right, CHUNK: tl.constexpr):
    """Multiply two tiles row by row."""
    rows = ()
    for t in tl.static_range(CHUNK):
        rows = rows + (left[t] * right[t],)
    return rows


@triton.jit
def gate_rows(rows, gates, CHUNK: tl.constexpr):
    """Compute rows * silu(gates)."""
    gated = ()
    for t in tl.static_range(CHUNK):
        gated = gated + (rows[t] * gates[t] * sigmoid(gates[t]),)
    return gated


@triton.jit
def zero_rows(row, CHUNK: tl.constexpr):
    """Return a tile of zeros with rows like `row`."""
    rows = ()
    for _ in tl.static_range(CHUNK):
        rows = rows + (tl.zeros_like(row),)
    return rows


@triton.jit
def matrix_pointers(
    B, C, batch, start, length, group, B_b, B_l, B_g, C_b, C_l, C_g, CHUNK: tl.constexpr, BLOCK: tl.constexpr
):
    """Point thread t to the first state entry of B, and thread CHUNK + t to that of C, at the tile's token t.

    B, C: (batch, length, groups, state). So one load serves a tile of up to 16 tokens, and one register holds it until
    `token_numbers` distributes it. A token's entries share a cache line. Tokens beyond the length repeat the last one:
    their step size and gradient are 0.
    """
    thread = tl.arange(0, BLOCK)
    tokens = tl.minimum(start + thread % CHUNK, length - 1).to(tl.int64)
    of_B = B + batch * B_b + group * B_g + tokens * B_l
    return tl.where(thread < CHUNK, of_B, C + batch * C_b + group * C_g + tokens * C_l)


@triton.jit
def load_entry(rates, states, n, dim):
    """Load state entry n of the decay rates (state, dim) and of the states of a direction, each for all channels."""
    return tl.load(rates + n * dim), tl.load(states + n * dim)


@triton.jit
def token_numbers(numbers, FIRST: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """Return CHUNK rows, row t filled with the number of thread FIRST + t, by one shuffle each within a warp."""
    numbers = numbers.to(tl.float32)
    rows = ()
    for t in tl.static_range(CHUNK):
        rows = rows + (tl.gather(numbers, tl.full([BLOCK], FIRST + t, tl.int32), 0),)
    return rows


@triton.jit
def decay_rows(steps, rate, CHUNK: tl.constexpr):
    """Compute exp(step * rate) of every row."""
    decays = ()
    rate = rate * LOG2_E  # the hardware's exponential has base 2
    for t in tl.static_range(CHUNK):
        decays = decays + (tl.exp2(steps[t] * rate),)
    return decays


@triton.jit
def carried_rows(decays, scaled, B, state, CHUNK: tl.constexpr, REVERSE: tl.constexpr):
    """Compute k_t = decay_t h_{t-1} for all rows and the last state, where h_t = k_t + B_t scaled_t, from `state`.

    scaled is step size * input. REVERSE: from the last row to the first.
    """
    carried = ()
    for i in tl.static_range(CHUNK):
        if REVERSE:
            k = decays[CHUNK - 1 - i] * state
            state = k + B[CHUNK - 1 - i] * scaled[CHUNK - 1 - i]
            carried = (k,) + carried
        else:
            k = decays[i] * state
            state = k + B[i] * scaled[i]
            carried = carried + (k,)
    return carried, state


@triton.jit
def adjoint_rows(decays, grad_reads, inflow, CHUNK: tl.constexpr, REVERSE: tl.constexpr):
    """Compute v_t of all rows and the outflow, where mu_t = grad_read_t + v_t, v_t = decay_{t+1} mu_{t+1}.

    mu_t is the adjoint of the carried part k_t, and `inflow` the initial v. REVERSE: from the last row to the first,
    for the direction that runs forward in time.
    """
    inflows = ()
    for i in tl.static_range(CHUNK):
        if REVERSE:
            inflows = (inflow,) + inflows
            inflow = decays[CHUNK - 1 - i] * (grad_reads[CHUNK - 1 - i] + inflow)
        else:
            inflows = inflows + (inflow,)
            inflow = decays[i] * (grad_reads[i] + inflow)
    return inflows, inflow


@triton.jit
def hide_token(rows, token, CHUNK: tl.constexpr, MASKED: tl.constexpr):
    """Set row `token` of the tile to 0, because a masked direction reads nothing at its first token."""
    if MASKED:
        shown = ()
        for t in tl.static_range(CHUNK):
            shown = shown + (tl.where(token == t, 0.0, rows[t]),)
        return shown
    else:
        return rows


@triton.jit
def read_rows(carried, scaled, B, token, CHUNK: tl.constexpr, MASKED: tl.constexpr):
    """Return what C reads: the state or, with the mask, the carried part, and 0 at `token`."""
    if MASKED:
        return hide_token(carried, token, CHUNK, True)
    else:
        states = ()
        for t in tl.static_range(CHUNK):
            states = states + (carried[t] + B[t] * scaled[t],)
        return states


@triton.jit
def add_scaled(rows, more, numbers, CHUNK: tl.constexpr):
    """Compute rows + more * its token's number."""
    total = ()
    for t in tl.static_range(CHUNK):
        total = total + (rows[t] + more[t] * numbers[t],)
    return total


@triton.jit
def buffer_row(sequence, row, chunks, batch_size, batch, elements):
    """Return the offset of a row in the (sequences, chunks + 1, batch, state * dim) buffer of carried states."""
    return ((sequence * (chunks + 1) + row).to(tl.int64) * batch_size + batch) * elements
