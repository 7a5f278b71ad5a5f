"""Launch kernels with a tile size that is chosen by measurement.

The first call with new sizes times each candidate on the device and keeps the fastest one for the process, and for all
processes of a distributed run. Candidates add in different orders, so results differ in the last bits.
VIDEOMAMBAPRO_TRITON_TUNE=0 always uses the first candidate, for runs that must be bit-identical.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

logger = logging.getLogger(__name__)

TUNE_VARIABLE = "VIDEOMAMBAPRO_TRITON_TUNE"
TRIALS = 5
MARGIN = 0.97  # of the first tile's time; another one must be faster, or noise would choose
BUSY = 10_000_000  # clock cycles, some milliseconds, during which the host launches what is timed


class Tile(NamedTuple):
    """Tile of a program.

    Attributes:
        chunk: Tokens.
        warps: Warps of 32 threads, one channel per thread.
        registers: Limit of registers per thread, or None.
    """

    chunk: int
    warps: int
    registers: int | None = None

    @property
    def block(self) -> int:
        """Channels of the tile."""
        return 32 * self.warps


# The first of each list is used if nothing is measured. One warp, because the kernels pass numbers between threads by
# shuffles. docs/gpu.md lists what each compiles to.
FORWARD_TILES = (Tile(16, 1), Tile(8, 1))
BACKWARD_TILES = (Tile(16, 1), Tile(8, 1))
CARRY = Tile(16, 1)  # `carry_kernel`: chunks loaded together, warps
SUM = Tile(1, 4)  # `matrix_sum_kernel`
ROW_SUM = Tile(16, 8)  # `row_sum_kernel`: rows that a warp loads together, warps


class Launch(NamedTuple):
    """A kernel launch, as collected by `recorded_launches`."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    tile: Tile


_recorder: list[Launch] | None = None
_fastest: dict[tuple, Tile] = {}


def strides(name: str, tensor: torch.Tensor | None, axes: str = "bld") -> dict[str, int]:
    """Return launch arguments NAME_AXIS with the strides of a tensor, 0 without a tensor."""
    steps = (0,) * len(axes) if tensor is None else tensor.stride()
    return {f"{name}_{axis}": step for axis, step in zip(axes, steps, strict=True)}


def row_distance(tensor: torch.Tensor) -> int:
    """Return how many elements apart the rows of a (batch, length, dim) tensor are, for `tiles.store_rows`.

    Raises:
        RuntimeError: The distances differ between the batch and the length, or a row has gaps.
    """
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise RuntimeError("a kernel cannot write rows with gaps")
    return tensor.view(-1, tensor.shape[-1]).stride(0)


def launch(kernel: Any, grid: tuple[int, ...], tile: Tile, **arguments: Any) -> None:
    """Launch a kernel on the arguments' device; in `recorded_launches`, only record it."""
    if _recorder is not None:
        _recorder.append(Launch(kernel, grid, arguments, tile))
        return
    device = next(value.device for value in arguments.values() if isinstance(value, torch.Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[grid](**arguments, num_warps=tile.warps, maxnreg=tile.registers)


@contextlib.contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Record launches instead of starting them, so that the kernels can be compiled without a GPU."""
    global _recorder
    _recorder = launches = []
    try:
        yield launches
    finally:
        _recorder = None


def fastest_tile(name: str, tiles: tuple[Tile, ...], sizes: tuple, device: torch.device, run: Callable) -> Tile:
    """Return the tile with which `run(tile)` is fastest on `device`, measured once per `name` and `sizes`.

    The first tile is used without a GPU, during the capture of a CUDA graph, or if measuring is disabled.
    """
    if device.type != "cuda" or os.environ.get(TUNE_VARIABLE) == "0":
        return tiles[0]
    key = (name, device.index, *sizes)
    if key not in _fastest:
        if torch.cuda.is_current_stream_capturing():
            return tiles[0]
        milliseconds = {tile: _milliseconds(run, tile) for tile in tiles}
        best = min(tiles, key=milliseconds.__getitem__)
        if milliseconds[best] > MARGIN * milliseconds[tiles[0]]:
            best = tiles[0]
        _fastest[key] = tiles[_agreed(f"{name} {sizes}", tiles.index(best))]
        logger.info("%s %s: %s of %s ms", name, sizes, _fastest[key], milliseconds)
    return _fastest[key]


def _agreed(question: str, answer: int) -> int:
    """Return the answer of the process that was first to ask: gradients must not depend on the rank.

    The store of the process group needs no other process at the same time, as a broadcast would: ranks meet new sizes
    at different steps, the last batch of an evaluation for example.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return answer
    store = dist.distributed_c10d._get_default_store()
    return int(store.compare_set(f"videomambapro: tile of {question}", "", str(answer)))


def _milliseconds(run: Callable, tile: Tile) -> float:
    """Return the shortest time of TRIALS runs on the GPU, after one that compiles."""
    run(tile)
    best = float("inf")
    for _ in range(TRIALS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(BUSY)  # the kernels queue up behind it, so the host's time does not count
        begin.record()
        run(tile)
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end))
    return best
