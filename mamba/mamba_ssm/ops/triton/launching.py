"""How kernels are started: the one function that launches, the sizes to choose among, and the choice by measurement.

The first call with new sizes times each candidate on the device and keeps the fastest for the process. Candidates
add in another order, so results differ in the last bits between them: VIDEOMAMBAPRO_TRITON_TUNE=0 takes the first
candidate always, for runs that must repeat to the bit.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

logger = logging.getLogger(__name__)

TUNE_VARIABLE = "VIDEOMAMBAPRO_TRITON_TUNE"
TRIALS = 5


class Tile(NamedTuple):
    """Tokens of a program's tile, its warps (32 threads, each owning a channel), and a limit on registers or None."""

    chunk: int
    warps: int
    registers: int | None = None

    @property
    def block(self) -> int:
        """Channels of the tile."""
        return 32 * self.warps


# The first of each list serves where nothing is measured. `backward_kernel` sums over channels: with one warp that
# needs no barrier. docs/gpu.md lists what each compiles to.
FORWARD_TILES = (Tile(16, 2), Tile(32, 1), Tile(8, 4))
BACKWARD_TILES = (Tile(8, 1), Tile(8, 1, 160), Tile(16, 1))
CARRY = Tile(16, 1)  # `carry_kernel`: chunks loaded together, warps


class Launch(NamedTuple):
    """A kernel launch as it was asked for: what `recorded_launches` collects."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    tile: Tile


_recorder: list[Launch] | None = None
_fastest: dict[tuple, Tile] = {}


def launch(kernel: Any, grid: tuple[int, ...], tile: Tile, **arguments: Any) -> None:
    """Starts `kernel` on the arguments' device; within `recorded_launches` only notes it."""
    if _recorder is not None:
        _recorder.append(Launch(kernel, grid, arguments, tile))
        return
    device = next(value.device for value in arguments.values() if isinstance(value, torch.Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](**arguments, num_warps=tile.warps, maxnreg=tile.registers)


@contextlib.contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Collects launches instead of starting them, so that what the host asks for can be compiled without a GPU."""
    global _recorder
    _recorder = launches = []
    try:
        yield launches
    finally:
        _recorder = None


def fastest_tile(name: str, tiles: tuple[Tile, ...], sizes: tuple, device: torch.device, run: Callable) -> Tile:
    """The tile with which `run(tile)` is fastest on `device`, measured once for `name` and `sizes`.

    The first tile wherever nothing can be measured: off a GPU, within a CUDA graph's capture, or switched off.
    """
    if device.type != "cuda" or os.environ.get(TUNE_VARIABLE) == "0":
        return tiles[0]
    key = (name, device.index, *sizes)
    if key not in _fastest:
        if torch.cuda.is_current_stream_capturing():
            return tiles[0]
        seconds = {tile: _milliseconds(run, tile) for tile in tiles}
        _fastest[key] = min(seconds, key=seconds.get)
        logger.info("%s %s: %s of %s ms", name, sizes, _fastest[key], seconds)
    return _fastest[key]


def _milliseconds(run: Callable, tile: Tile) -> float:
    """The shortest of TRIALS runs, after one that compiles."""
    run(tile)
    best = float("inf")
    for _ in range(TRIALS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run(tile)
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end))
    return best
