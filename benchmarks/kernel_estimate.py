"""Estimate the microseconds of the scan's kernels from their machine code, for docs/gpu.md; see `compile_report`.

A kernel takes at least the time to issue its instructions, to compute its exponentials and to move its bytes. None of
them reaches its bound: the estimate is the largest of the three divided by EFFICIENCY.
"""

import math
from typing import TYPE_CHECKING

from mamba.mamba_ssm.ops.triton.launching import Launch

if TYPE_CHECKING:
    from benchmarks.compile_report import Usage

# H100 SXM: what ncu and a copy showed
MULTIPROCESSORS, SCHEDULERS, CLOCK, BANDWIDTH = 132, 4, 1.96e9, 3.0e12
SPECIAL_CLOCKS = 8  # a scheduler starts the special function of a warp every eighth clock
EFFICIENCY = 0.6  # of the exponentials of the first `summary_kernel` that was measured, which waited least
COLUMNS = (
    "kernel", "tokens a tile", "warps at a time", "instructions a warp", "issue", "exponentials", "bytes", "estimate",
)  # fmt: skip


def estimate(launch: Launch, usage: "Usage") -> tuple[float, float, float]:
    """Return the three bounds in microseconds: issue, special functions, bytes."""
    warps = math.prod(launch.grid) * launch.tile.warps
    scheduler_seconds = warps / (MULTIPROCESSORS * SCHEDULERS) / CLOCK
    turns = _turns(launch)
    issue = (usage.outside + turns * usage.loop) * scheduler_seconds
    special = (usage.special_outside + turns * usage.special_in_loop) * SPECIAL_CLOCKS * scheduler_seconds
    return issue * 1e6, special * 1e6, _bytes(launch) / BANDWIDTH * 1e6


def estimate_line(launch: Launch, usage: "Usage") -> tuple[str, float]:
    """Return a kernel's line of the table and its estimate in microseconds."""
    bounds = estimate(launch, usage)
    total = max(bounds) / EFFICIENCY
    warps = min(32 // launch.tile.warps, 65536 // (32 * launch.tile.warps * _allocated(usage.registers)))
    instructions = usage.outside + _turns(launch) * usage.loop
    cells = (usage.kernel, launch.tile.chunk, warps * launch.tile.warps, instructions, *map(round, (*bounds, total)))
    return f"| {' | '.join(map(str, cells))} |", total


def _allocated(registers: int) -> int:
    return math.ceil(registers / 8) * 8


def _turns(launch: Launch) -> int:
    """Turns of the kernel's loop: over the state's entries, chunks, or what is summed."""
    arguments = launch.arguments
    if "carry" in launch.kernel.__name__:
        return math.ceil(arguments["chunks"] / arguments["ROWS"])
    if "row_sum" in launch.kernel.__name__:
        return math.ceil(arguments["rows"] / (arguments["ROWS"] * launch.tile.warps))
    if "matrix_sum" in launch.kernel.__name__:
        return math.ceil(arguments["blocks"] / 4)  # the compiler unrolls four turns
    return arguments["state"]


def _bytes(launch: Launch) -> int:
    """Bytes that a kernel must move: its tensors once, and of the buffer what it reads and writes."""
    arguments = launch.arguments
    tensors = {name: tensor for name, tensor in arguments.items() if hasattr(tensor, "nbytes")}
    buffer = tensors.pop("buffer", None)
    size = 0 if buffer is None else buffer.nbytes
    times = {"carry_kernel": 2, "backward_kernel": 1.5}.get(launch.kernel.__name__, 1)
    unread = {"grad_out", "z"} if arguments.get("ADJOINT") is False else set()
    unread |= {"u"} if launch.kernel.__name__ == "carry_kernel" else set()
    return round(times * size) + sum(tensor.nbytes for name, tensor in tensors.items() if name not in unread)
