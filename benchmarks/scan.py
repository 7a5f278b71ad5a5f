"""Compare implementations of both scans of one layer, on the CPU or a GPU, with the lower bound of their time.

    python -m benchmarks.scan [--length 1569 --dim 384 --state 16] [--threads 2] [--json out.json]
    python -m benchmarks.scan --device cuda [--batch 8] [--dtype bfloat16]
    python -m benchmarks.scan --published --rounds 1          with the published code's loop: minutes per call

Candidates on both: the reference loop over tokens, plain PyTorch, and mambapy's parallel scan if it is installed
(`pip install mambapy`; mask and elemental residual are added around it). On the CPU, the C++ kernel; on a GPU, the
Triton kernels and, if mamba-ssm is installed, its stock kernel extended to the method (`cuda`) and two unchanged runs
of it (`stock pass`, `stock kernels`, see benchmarks/candidates.py).

All candidates process the same values and take turns (A B A B); medians are reported. Time is wall-clock time on the
CPU, and the time between events with cold caches on a GPU. `limit` is the time to move the unavoidable bytes
(moved_bytes in benchmarks/candidates.py) at the rate of a large copy, timed in the same turns. Peak memory is what
forward and backward add to the inputs: on the CPU in separate processes, on a GPU by PyTorch's allocator. If outputs
or gradients differ from those of the loop in float32, nothing is reported and the exit status is 1.
"""

import argparse
import sys

import torch

from benchmarks import devices
from benchmarks.candidates import (
    LOOP,
    NAMES,
    STOCK_KERNELS,
    STOCK_PASS,
    Candidate,
    candidates,
    make_inputs,
    moved_bytes,
    time_contiguous,
)
from benchmarks.timing import interleaved_medians, peak_bytes
from common.files import write_json
from common.flag_parser import FlagParser
from common.memory import keep_freed_memory
from mamba.mamba_ssm.ops.selective_scan import available_backends
from mamba.mamba_ssm.ops.selective_scan.dispatch import PREFERENCE

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 2e-3}
SIZES = ("batch", "length", "dim", "state")
GOAL = 1.1  # ratio of Triton's time to that of a bidirectional pass of the stock kernel
COPY = "copy"

Figures = dict[str, dict[str, float]]


def sizes_of(arguments) -> tuple[int, ...]:
    """Return (batch, length, dim, state)."""
    return tuple(getattr(arguments, name) for name in SIZES)


def run(function, inputs, grad_out=None):
    """Run one call, with its backward pass if `grad_out` is given; return (out, gradients or None)."""
    tensors = [inputs[name] for name in NAMES]
    if grad_out is None:
        with torch.no_grad():
            return function(*tensors), None
    out = function(*tensors)
    return out, torch.autograd.grad(out, tensors, grad_out)


def in_layout_of(candidate: Candidate, inputs, grad_out):
    """Convert the inputs and the output's gradient to the memory layout of a candidate."""
    if not candidate.time_contiguous:
        return inputs, grad_out
    return {name: time_contiguous(t) for name, t in inputs.items()}, time_contiguous(grad_out)


def disagreements(found: dict[str, Candidate], inputs, grad_out) -> list[str]:
    """List the results whose relative difference from the loop in float32 is above TOLERANCE."""
    exact = {name: t.detach().float().requires_grad_() for name, t in inputs.items()}
    yardsticks, wrong = {}, []
    for name, candidate in found.items():
        if candidate.yardstick not in yardsticks:
            yardsticks[candidate.yardstick] = run(candidate.yardstick, exact, grad_out.float())
        expected, wanted = yardsticks[candidate.yardstick]
        out, grads = run(candidate.function, *in_layout_of(candidate, inputs, grad_out))
        for label, got, want in zip(("out", *NAMES), (out, *grads), (expected, *wanted), strict=True):
            error = ((got - want).norm() / want.norm()).item()
            if not error <= TOLERANCE[inputs["u"].dtype]:
                wrong.append(f"{name}: {label} differs from the loop reference by {error:.1e}")
    return wrong


def measure(arguments) -> tuple[Figures, dict[str, float]]:
    """Time all candidates.

    Returns:
        rows: forward_ms, training_ms (forward and backward) and peak_mb (of a training call), by name.
        limit: forward_ms and training_ms of moving the bytes at copy_gb_s.
    """
    device, dtype, sizes = arguments.device, DTYPES[arguments.dtype], sizes_of(arguments)
    inputs = make_inputs(*sizes, dtype, device)
    grad_out = torch.randn(sizes[:3], generator=torch.Generator().manual_seed(1)).to(device, dtype)
    found = candidates(device, dtype, arguments.published)
    wrong = disagreements(found, inputs, grad_out)
    if wrong:
        raise SystemExit("no speed is reported for wrong results:\n" + "\n".join(wrong))
    copy = devices.large_copy(device)
    forward, training = {COPY: copy}, {}
    for name, candidate in found.items():
        given, grad = in_layout_of(candidate, inputs, grad_out)
        forward[name] = lambda f=candidate.function, i=given: run(f, i)
        training[name] = lambda f=candidate.function, i=given, g=grad: run(f, i, g)
    for call in forward.values():
        call()
    stopwatch = devices.stopwatch_of(device, copy)
    forward_seconds = interleaved_medians(forward, arguments.rounds, stopwatch)
    training_seconds = interleaved_medians(training, arguments.rounds, stopwatch)
    options = [f"--{name}={getattr(arguments, name)}" for name in (*SIZES, "dtype")]
    rows = {
        name: {
            "forward_ms": 1e3 * forward_seconds[name],
            "training_ms": 1e3 * training_seconds[name],
            "peak_mb": devices.peak_of_call(device, call, "benchmarks.scan", "--peak-of", name, *options) / 1e6,
        }
        for name, call in training.items()
    }
    rate = devices.copy_rate(device, forward_seconds[COPY])
    limit = {f"{what}_ms": 1e3 * count / rate for what, count in moved_bytes(inputs).items()}
    return rows, limit | {"copy_gb_s": rate / 1e9}


def print_peak(arguments) -> None:
    """Print the bytes that a training call of a candidate adds to the peak of an idle process with the inputs."""
    sizes, dtype = sizes_of(arguments), DTYPES[arguments.dtype]
    inputs, grad_out = make_inputs(*sizes, dtype), torch.randn(sizes[:3]).to(dtype)
    function = candidates("cpu", dtype, published=True)[arguments.peak_of].function
    run(function, make_inputs(1, 2, 8, 4, dtype), torch.zeros(1, 2, 8, dtype=dtype))  # load what first use loads
    idle = peak_bytes()
    run(function, inputs, grad_out)
    print(peak_bytes() - idle)


def stock_ratios(rows: Figures) -> Figures:
    """Return the ratios of Triton's times to those of the stock kernel, if both ran."""
    peers = [name for name in (STOCK_PASS, STOCK_KERNELS) if name in rows and "triton" in rows]
    times = ("forward", "training")
    return {name: {t: rows["triton"][f"{t}_ms"] / rows[name][f"{t}_ms"] for t in times} for name in peers}


def print_table(title: str, rows: Figures, limit: dict[str, float]) -> None:
    """Print a table with the speed-up over the loop and the ratio to the limit of each candidate."""
    group = f"{'loop / it':>10} {'it / limit':>10}"
    print(f"{title}\n{'':16} {'forward':>12} {group} {'fwd + bwd':>14} {group} {'peak memory':>14}")
    for name, row in rows.items():
        cells = ""
        for time in ("forward_ms", "training_ms"):
            factors = (rows[LOOP][time] / row[time], row[time] / limit[time])
            cells += f"{row[time]:9.3f} ms {factors[0]:9.1f}x {factors[1]:9.1f}x   "
        print(f"{name:16} {cells}{row['peak_mb']:9.1f} MB")


def report(arguments, rows: Figures, limit: dict[str, float]) -> None:
    """Print the table and what it is compared with; write --json."""
    ratios = stock_ratios(rows)
    sizes = str(sizes_of(arguments))
    where = devices.device_name(arguments.device)
    print_table(f"both scans of one layer, {sizes}, {arguments.dtype}, {where}, medians", rows, limit)
    print(
        f"limit: {limit['forward_ms']:.4f} ms forward, {limit['training_ms']:.4f} ms with backward, at the "
        f"{limit['copy_gb_s']:.0f} GB/s of a copy"
    )
    for name, ratio in ratios.items():
        goal = f" (goal: <= {GOAL})" if name == STOCK_PASS else ""
        print(f"triton / {name}: {ratio['forward']:.2f} forward, {ratio['training']:.2f} with backward{goal}")
    states = available_backends(arguments.device, DTYPES[arguments.dtype])
    for name in PREFERENCE[arguments.device]:
        if states[name] != "available":
            print(f"left out: {name}: {states[name]}")
    if arguments.json:
        settings = {"sizes": sizes, "dtype": arguments.dtype, "device": where, "threads": torch.get_num_threads()}
        figures = {"candidates": rows, "limit": limit, "triton_by_stock": ratios}
        write_json(arguments.json, settings | figures)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; exit if it asks for a device that does not exist."""
    parser = FlagParser(
        prog="benchmarks.scan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    devices.add_device_argument(parser)
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="type of the tokens; parameters are float32"
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument(
        "--length", type=int, default=1569, help="tokens; 1569 = 8 frames of 14 x 14 and the class token"
    )
    parser.add_argument("--dim", type=int, default=384, help="channels of the scan, twice the model's width")
    parser.add_argument("--state", type=int, default=16)
    parser.add_argument("--published", action="store_true", help="also time the published loop")
    parser.add_argument("--rounds", type=int, default=8, help="turns per candidate (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: PyTorch's default")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    for name in (*SIZES, "rounds"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be 1 or more")
    devices.require_device(parser, arguments.device)
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status is 1 if candidates disagree."""
    arguments = parse_arguments(argv)
    if arguments.peak_of:
        print_peak(arguments)
        return 0
    keep_freed_memory()  # for all candidates, so that the scan is measured and not the mapping of new pages
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    report(arguments, *measure(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
