"""Measure training steps and forward passes of whole models on a GPU, as they are, as CUDA graphs and compiled.

    python -m benchmarks.gpu_steps [--models tiny small middle] [--batch 8] [--frames 8] [--compile] [--json FILE]

Everything runs with bfloat16 autocast on clips in the GPU's memory. For each model the table has the time of a step
(forward, cross entropy, backward, AdamW), of which "host" is the time that Python needs to queue it and "busy" the
time of its kernels: a step whose host time is the larger one is bound by the host. A graph is the same step captured
once and replayed. Memory is the peak of a step, with weights, optimizer and clips.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import devices, peers
from benchmarks.kernels import kernel_times
from common.files import write_json
from common.flag_parser import FlagParser

SECONDS = 1.5  # of measuring one call
MIN_CALLS, MAX_CALLS = 3, 20
WARM_UP = 3  # steps before a capture
COMPILE_MODES = ("default", "reduce-overhead")
Row = dict[str, float]


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds per call, and those that the host needs to queue it, after one call that warms up."""
    call()
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    calls = min(max(int(SECONDS / (time.perf_counter() - began)), MIN_CALLS), MAX_CALLS)
    began = time.perf_counter()
    for _ in range(calls):
        call()
    queued = time.perf_counter() - began
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / calls, queued / calls


def captured(step: Callable[[], object]) -> Callable[[], None]:
    """Capture a call as a CUDA graph and return the function that replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def measure(size: str, batch: int, frames: int, compiled: bool) -> dict[str, Row]:
    """Measure one model; a variant that fails is told and left out.

    Returns:
        ms, clips/s and, where they apply, host ms, busy ms, launches and GiB, by variant.
    """
    rows: dict[str, Row] = {}

    def note(variant: str, build: Callable[[], tuple[Callable[[], object], Row]]) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            call, facts = build()
            seconds, queued = timed(call)
        except Exception as error:  # noqa: BLE001  one variant that fails must not cost the others
            print(f"  {size} {variant}: failed: {type(error).__name__}: {str(error).splitlines()[:1]}", flush=True)
            return
        facts |= {"ms": 1e3 * seconds, "clips/s": batch / seconds, "host ms": 1e3 * queued}
        rows[variant] = facts | {"GiB": torch.cuda.max_memory_allocated() / 2**30}
        print(f"  {size} {variant}: " + ", ".join(f"{k} {v:.4g}" for k, v in rows[variant].items()), flush=True)

    def candidate() -> peers.Candidate:
        found = peers.build(f"VideoMambaPro-{size.title()}", frames, device="cuda", batch=batch)
        found.precision = peers.PRECISIONS[1]
        return found

    def busy(call: Callable[[], object]) -> tuple[Callable[[], object], Row]:
        kernels = kernel_times(call).values()
        return call, {
            "busy ms": sum(kernel.microseconds for kernel in kernels) / 1e3,
            "launches": sum(kernel.launches for kernel in kernels),
        }

    def compiled_step(mode: str) -> tuple[Callable[[], object], Row]:
        torch._dynamo.reset()
        found = candidate()
        found.model.compile(mode=None if mode == "default" else mode)
        step = found.training_step()
        began = time.perf_counter()
        step()
        torch.cuda.synchronize()
        return step, {"first step s": time.perf_counter() - began}

    note("step", lambda: busy(candidate().training_step()))
    note("step, CUDA graph", lambda: (captured(candidate().training_step(capturable=True)), {}))
    note("forward", lambda: busy(candidate().forward))
    note("forward, CUDA graph", lambda: (captured(candidate().forward), {}))
    for mode in COMPILE_MODES if compiled else ():
        note(f"step, compiled ({mode})", lambda mode=mode: compiled_step(mode))
    return rows


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = FlagParser(
        prog="benchmarks.gpu_steps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [name.split("-")[1].lower() for name in peers.SIZES]
    parser.add_argument("--models", nargs="+", choices=sizes, default=sizes, metavar="MODEL", help=", ".join(sizes))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile, which takes minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args(argv)
    devices.require_device(parser, "cuda")
    print(f"batch {arguments.batch} x {arguments.frames} frames, bfloat16, {torch.cuda.get_device_name()}")
    rows = {size: measure(size, arguments.batch, arguments.frames, arguments.compile) for size in arguments.models}
    if arguments.json:
        settings = {"batch": arguments.batch, "frames": arguments.frames, "gpu": torch.cuda.get_device_name()}
        write_json(arguments.json, settings | {"models": rows})
    return 0 if all(rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
