"""Sums over the programs of a kernel, for the gradients of parameters: one launch for several, in a fixed order.

No atomics, so the sums are the same to the bit every time.
"""

import math
from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from mamba.mamba_ssm.ops.triton.launching import ROW_SUM, launch

COLUMNS = tl.constexpr(32)  # of a program, one for each thread of a warp
PARTS = 4


@triton.jit
def _add_part(pointer, stride, first, part, entries, dim, elements):
    """Point threads whose elements are in `part`, the entries * dim elements from `first` on, to its first row."""
    within = elements - first
    size = entries * dim
    inside = (within >= 0) & (within < size)
    return tl.where(inside, part + within, pointer), tl.where(inside, size, stride), first + size


@triton.jit
def _store_sums(sums, first, entries, dim, elements, total, kept):
    """Store what `_add_part` found as (dim, entries), and return the first element of the next part."""
    within = elements - first
    size = entries * dim
    at = within % dim * entries + within // dim
    tl.store(sums + at, total.to(sums.dtype.element_ty), mask=kept & (within >= 0) & (within < size))
    return first + size


@triton.jit(do_not_specialize=["entries_1", "entries_2", "entries_3", "entries_4", "rows", "dim"])
def row_sum_kernel(
    part_1, part_2, part_3, part_4, sums_1, sums_2, sums_3, sums_4, entries_1, entries_2, entries_3, entries_4,
    rows, dim, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of COLUMNS elements of a row of all parts). Absent parts are None.

    The warps of a program take turns with the rows and add their sums up at the end; each loads ROWS rows together to
    hide the latency.
    """
    thread = tl.arange(0, BLOCK)
    slots: tl.constexpr = BLOCK // COLUMNS
    slot = thread // COLUMNS
    elements = tl.program_id(0) * COLUMNS + thread % COLUMNS
    pointer, stride, first = part_1 + tl.minimum(elements, entries_1 * dim - 1), entries_1 * dim, entries_1 * dim
    if part_2 is not None:
        pointer, stride, first = _add_part(pointer, stride, first, part_2, entries_2, dim, elements)
    if part_3 is not None:
        pointer, stride, first = _add_part(pointer, stride, first, part_3, entries_3, dim, elements)
    if part_4 is not None:
        pointer, stride, first = _add_part(pointer, stride, first, part_4, entries_4, dim, elements)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, rows, ROWS * slots):
        loaded = ()
        for r in tl.static_range(ROWS):
            row = tl.minimum(slot + start + r * slots, rows - 1).to(tl.int64)  # no mask, as in `tiles`
            loaded = loaded + (tl.load(pointer + row * stride),)
        for r in tl.static_range(ROWS):
            total += tl.where(slot + start + r * slots < rows, loaded[r], 0.0)
    for step in tl.static_range(5):
        if COLUMNS << step < BLOCK:
            total += tl.gather(total, thread ^ (COLUMNS << step), 0)
    first = _store_sums(sums_1, 0, entries_1, dim, elements, total, slot == 0)
    if part_2 is not None:
        first = _store_sums(sums_2, first, entries_2, dim, elements, total, slot == 0)
    if part_3 is not None:
        first = _store_sums(sums_3, first, entries_3, dim, elements, total, slot == 0)
    if part_4 is not None:
        first = _store_sums(sums_4, first, entries_4, dim, elements, total, slot == 0)


def sum_rows(pairs: Sequence[tuple[Tensor | None, Tensor | None]]) -> None:
    """Sum parts over their rows in one launch.

    Args:
        pairs: Up to four parts, each with the tensor for its sums, or None for both. A part is float32 and contiguous
            with the shape (rows, entries, dim) or (rows, dim), or with several axes of rows before entries; sums are
            contiguous with the shape (dim, entries) or (dim). rows and dim are the same for all parts.
    """
    given = [(part, sums) for part, sums in pairs if part is not None and sums is not None]
    if not given or given[0][1].numel() == 0:
        return
    first, first_sums = given[0]
    rows, dim = first.numel() // first_sums.numel(), first.shape[-1]
    arguments = dict(rows=rows, dim=dim, ROWS=ROW_SUM.chunk, BLOCK=ROW_SUM.block)
    for number, (part, sums) in enumerate(given + [(None, None)] * (PARTS - len(given)), start=1):
        entries = 0 if sums is None else sums.numel() // dim
        arguments |= {f"part_{number}": part, f"sums_{number}": sums, f"entries_{number}": entries}
    columns = sum(sums.numel() for _, sums in given)
    launch(row_sum_kernel, (math.ceil(columns / COLUMNS.value),), ROW_SUM, **arguments)
