"""Measure every Triton kernel of a layer on a GPU: microseconds, beside the least that memory and exponentials take.

    python -m benchmarks.kernels [--batch 8 --length 1569 --dim 384] [--tiles] [--json FILE]
    python -m benchmarks.kernels --once small|layer    # runs without measuring, for compute-sanitizer and ncu

Times are those of PyTorch's profiler, so they contain no launch. "bytes" is the time of moving every tensor that the
kernel is given once, at the rate of a large copy; a kernel that updates a tensor in place moves it twice. "exp" is the
time of the scan's exponentials, one per token, channel, state entry and direction, at 16 per clock and multiprocessor.
"""

import argparse
import functools
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import devices
from benchmarks.candidates import make_inputs
from common.files import write_json
from common.flag_parser import FlagParser

CALLS = 6
EXPONENTIALS = ("summary_kernel", "forward_kernel", "backward_kernel")  # kernels that compute all decays once
EXPONENTIALS_PER_CLOCK = 16  # and multiprocessor, compute capability 8.0 to 10.0
CLOCK_HZ = 1.755e9  # an H100 under load; cards differ by a tenth
SWITCHES = (True, True, False, True)  # softplus, residual, masked, masked backward: the method
STATE = 16
SMALL = (2, 45, 80)  # batch, length, dim: a tile that is not full along each axis
LIBRARY = "of PyTorch"  # row of all kernels that are not this repository's


@dataclass
class Kernel:
    """A kernel's time in one call, and what it has to do.

    Attributes:
        microseconds: Time of all its launches.
        launches: Number of launches.
        moved: Bytes of its tensors, 0 if unknown.
        exponentials: Exponentials of the scan that it computes.
    """

    microseconds: float = 0.0
    launches: float = 0.0
    moved: int = 0
    exponentials: int = 0


def kernel_times(call: Callable[[], object]) -> dict[str, Kernel]:
    """Return the time of each kernel in a call of `call`, by the profiler; library kernels are one row."""
    for _ in range(2):
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as run:
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize()
    found: dict[str, Kernel] = {}
    for event in run.key_averages():
        if event.self_device_time_total > 0:
            name = event.key if event.key.endswith("_kernel") and "::" not in event.key else LIBRARY
            kernel = found.setdefault(name, Kernel())
            kernel.microseconds += event.self_device_time_total / CALLS
            kernel.launches += event.count / CALLS
    return found


def add_limits(found: dict[str, Kernel], call: Callable[[], object], exponentials: int) -> None:
    """Add what the kernels must move and compute, from the arguments of their launches."""
    from mamba.mamba_ssm.ops.triton.launching import recorded_launches

    with recorded_launches() as launches:
        call()
    for launch in launches:
        name = launch.kernel.__name__
        tensors = {t.data_ptr(): t for t in launch.arguments.values() if isinstance(t, Tensor)}
        if name in found:
            found[name].moved += sum(t.numel() * t.element_size() for t in tensors.values())
            found[name].exponentials += exponentials if name in EXPONENTIALS else 0


def scan_calls(batch: int, length: int, dim: int, all_tiles: bool) -> dict[str, Callable[[], object]]:
    """Return the passes of one layer's scan to measure, by name: the first tile of each, or all."""
    from mamba.mamba_ssm.ops.triton import launching, selective_scan

    inputs = [t.detach() for t in make_inputs(batch, length, dim, STATE, torch.bfloat16, "cuda").values()]
    scan = selective_scan.ScanArguments(*inputs, *SWITCHES)
    grad = torch.randn_like(scan.u)
    forward, backward = selective_scan.run_forward, functools.partial(selective_scan.run_backward, grad)
    calls = {}
    for name, run, tiles in (
        ("forward", forward, launching.FORWARD_TILES),
        ("backward", backward, launching.BACKWARD_TILES),
    ):
        for tile in tiles if all_tiles else tiles[:1]:
            calls[f"scan {name}, tiles of {tile.chunk}"] = functools.partial(run, scan, tile)
    return calls


def other_calls(batch: int, length: int, dim: int) -> dict[str, Callable[[], object]]:
    """Return forward and backward passes of the convolution and the norm of a layer, by name."""
    from mamba.mamba_ssm.ops.triton import causal_conv1d, layer_norm

    def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*shape, device="cuda", dtype=dtype)

    x, grad = (normal(batch, length, dim, dtype=torch.bfloat16) for _ in range(2))
    taps, bias = normal(dim, 4), normal(dim)
    hidden = normal(batch, length, dim // 2, dtype=torch.bfloat16)
    residual, weight = normal(batch, length, dim // 2), normal(dim // 2)
    norm, of_hidden = (weight, None, 1e-5, True), torch.empty_like(hidden)
    return {
        "convolution": lambda: causal_conv1d.convolve(x, taps, bias, True),
        "convolution, backward": lambda: causal_conv1d.convolve_backward(grad, x, taps, bias, True),
        "norm": lambda: layer_norm.run_forward(hidden, residual, *norm),
        "norm, backward": lambda: layer_norm.run_backward(hidden, residual, residual, *norm, grad_hidden=of_hidden),
    }


def compile_in_parallel(all_tiles: bool) -> None:
    """Compile the kernels of every pass in a process of its own; what follows finds them in Triton's cache."""
    names = [*scan_calls(*SMALL, all_tiles), *other_calls(*SMALL)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(len(names), os.cpu_count() or 1), mp_context=context) as pool:
        for future in [pool.submit(_compile, name) for name in names]:
            future.exception()  # waits; what fails to compile also fails, and is told, when it is measured


def _compile(name: str) -> None:
    (scan_calls(*SMALL, all_tiles=True) | other_calls(*SMALL))[name]()
    torch.cuda.synchronize()


def measure(arguments: argparse.Namespace, bytes_per_second: float) -> tuple[list[dict], list[str]]:
    """Measure all kernels of a layer and print each pass immediately.

    Returns:
        a row for each pass and kernel; the passes that failed.
    """
    sizes = (arguments.batch, arguments.length, arguments.dim)
    exponentials = 2 * arguments.batch * arguments.length * arguments.dim * STATE
    multiprocessors = torch.cuda.get_device_properties().multi_processor_count
    rate = EXPONENTIALS_PER_CLOCK * multiprocessors * CLOCK_HZ
    table, failed = [], []
    for name, call in (scan_calls(*sizes, arguments.tiles) | other_calls(*sizes)).items():
        try:
            kernels = kernel_times(call)
            add_limits(kernels, call, exponentials)
        except Exception as error:  # noqa: BLE001  one pass that fails must not cost the others
            reason = next(iter(str(error).splitlines()), "")
            print(f"{name}: failed: {type(error).__name__}: {reason}", flush=True)
            failed.append(name)
            continue
        total = sum(kernel.microseconds for kernel in kernels.values())
        print(f"{name}: {total:.0f} us in {sum(k.launches for k in kernels.values()):.0f} launches")
        for kernel_name, kernel in kernels.items():
            limits = {"bytes": 1e6 * kernel.moved / bytes_per_second, "exp": 1e6 * kernel.exponentials / rate}
            told = ", ".join(f"{limit} {us:.0f}" for limit, us in limits.items() if us)
            print(f"    {kernel_name:28} {kernel.microseconds:8.1f} us  {f'[{told}]' if told else ''}", flush=True)
            row = {"pass": name, "kernel": kernel_name, "us": kernel.microseconds, "launches": kernel.launches}
            table.append(row | {f"{limit} us": us for limit, us in limits.items()})
    return table, failed


def run_once(batch: int, length: int, dim: int, all_tiles: bool) -> None:
    """Run a layer's kernels forward and backward, the second time for profilers that wait for their start."""
    calls = (scan_calls(batch, length, dim, all_tiles) | other_calls(batch, length, dim)).values()
    for call in calls:  # compiles
        call()
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    for call in calls:
        call()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = FlagParser(
        prog="benchmarks.kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--length", type=int, default=1569, help="tokens; 1569 = 8 frames of 14 x 14 and a class token"
    )
    parser.add_argument("--dim", type=int, default=384, help="channels of the scan, twice the model's width")
    parser.add_argument("--tiles", action="store_true", help="measure every tile, not only the first")
    parser.add_argument("--once", choices=("small", "layer"), help="run all kernels of this size, measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args(argv)
    devices.require_device(parser, "cuda")
    if arguments.once:
        small = arguments.once == "small"
        run_once(*(SMALL if small else (arguments.batch, arguments.length, arguments.dim)), all_tiles=small)
        return 0
    compile_in_parallel(arguments.tiles)
    copy = devices.large_copy("cuda")
    bytes_per_second = devices.copy_rate("cuda", 1e-6 * kernel_times(copy)[LIBRARY].microseconds)
    sizes = f"({arguments.batch}, {arguments.length}, {arguments.dim})"
    print(f"{sizes}, bfloat16, {torch.cuda.get_device_name()}, a copy moves {bytes_per_second / 1e12:.2f} TB/s")
    table, failed = measure(arguments, bytes_per_second)
    if arguments.json:
        found = {"sizes": sizes, "gpu": torch.cuda.get_device_name(), "kernels": table, "failed": failed}
        write_json(arguments.json, found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
