"""Check and measure everything on one GPU in under nine minutes (`make gpu-check`).

    python -m benchmarks.gpu_check [PART ...] [--output outputs/gpu_check] [--limit 540]

Each part runs in its own process with a time limit, and a part that fails does not stop the others. Without a GPU,
nothing is run. Whole logs and the figures as JSON are in --output; the exit status is 1 if a part failed, also where
all its tests were skipped. `python -m benchmarks.gpu_table` puts the figures into docs/gpu.md.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from common.flag_parser import FlagParser

PYTHON = (sys.executable, "-m")
METRICS = (
    "gpu__time_duration.sum", "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active",
    "l1tex__data_pipe_lsu_wavefronts.avg.pct_of_peak_sustained_elapsed",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed", "sm__warps_active.avg.pct_of_peak_sustained_active",
    "launch__registers_per_thread", "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_mio_throttle_per_issue_active.ratio",
)  # fmt: skip
SCAN_KERNELS = "regex:(summary|carry|forward|backward)_kernel"


class Part(NamedTuple):
    """A part of the check.

    Attributes:
        name: Its name on the command line.
        seconds: Time limit.
        command: What to run; OUTPUT in an argument is the output folder.
        lines: Lines of its output to print.
        environment: Variables to set.
    """

    name: str
    seconds: int
    command: tuple[str, ...]
    lines: int = 12
    environment: tuple[tuple[str, str], ...] = ()


UNTUNED = (("VIDEOMAMBAPRO_TRITON_TUNE", "0"),)
NO_CACHE = (*UNTUNED, ("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"))
KERNELS = (*PYTHON, "benchmarks.kernels")
STEPS = (*PYTHON, "benchmarks.gpu_steps")
PARTS = (
    Part("doctor", 40, (*PYTHON, "mamba.mamba_ssm.doctor"), 20),
    Part("kernels", 90, (*KERNELS, "--tiles", "--json", "OUTPUT/kernels.json"), 60, UNTUNED),
    Part("tests", 150, (*PYTHON, "pytest", "tests/test_gpu.py", "-q", "-n", "8", "--tb=short"), 20),
    Part("scan", 80, (*PYTHON, "benchmarks.scan", "--device", "cuda", "--batch", "8", "--dtype", "bfloat16",
                      "--rounds", "3", "--json", "OUTPUT/scan.json"), 14),
    Part("steps", 120, (*STEPS, "--json", "OUTPUT/steps.json"), 20),
    Part("large batch", 60, (*STEPS, "--models", "tiny", "--batch", "64", "--json", "OUTPUT/large_batch.json")),
    Part("memory errors", 90, ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9",
                               *KERNELS, "--once", "small"), 4, NO_CACHE),
    Part("profile", 60, ("ncu", "--clock-control", "none", "-k", SCAN_KERNELS, "--profile-from-start", "off",
                         "--metrics", ",".join(METRICS), *KERNELS, "--once", "layer"), 80, UNTUNED),
    Part("compile", 150, (*STEPS, "--models", "tiny", "--compile", "--json", "OUTPUT/compile.json")),
)  # fmt: skip


def run(part: Part, output: Path, seconds: int) -> bool:
    """Run a part, print the end of its output and return whether it succeeded."""
    if shutil.which(part.command[0]) is None:
        print(f"== {part.name}: left out, {part.command[0]} is not installed", flush=True)
        return True
    command = [argument.replace("OUTPUT", str(output)) for argument in part.command]
    log = output / f"{part.name.replace(' ', '_')}.log"
    began = time.monotonic()
    with log.open("w") as stream:
        # In its own session, so that a time limit also stops the processes that the part has started.
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, env=os.environ | dict(part.environment),
            start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(seconds)
            result = f"exit status {status}" if status else verdict(log.read_text(errors="replace"))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            result = f"stopped after its limit of {seconds} s"
    lines = log.read_text(errors="replace").splitlines()[-part.lines :]
    print(
        f"== {part.name}: {result}, {time.monotonic() - began:.0f} s", *(f"  {line[:200]}" for line in lines), sep="\n"
    )
    sys.stdout.flush()
    return result == "ok"


def verdict(log: str) -> str:
    """Return "ok", or what is wrong with a part that ended well: pytest also does if it has skipped every test."""
    *_, summary = ["", *log.splitlines()]
    return "every test was skipped" if re.search(r"\b\d+ skipped\b", summary) and "passed" not in summary else "ok"


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = FlagParser(
        prog="benchmarks.gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(names) + " (default: all)")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu_check"), help="folder of logs and figures")
    parser.add_argument("--limit", type=int, default=540, help="seconds of all parts together (default: %(default)s)")
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.parts) - set(names))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; choose from {', '.join(names)}")
    if not torch.cuda.is_available():
        parser.exit(1, f"{parser.prog}: PyTorch finds no NVIDIA GPU here, so there is nothing to check or measure\n")
    arguments.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + arguments.limit
    failed = []
    for part in PARTS:
        left = int(end - time.monotonic())
        if arguments.parts and part.name not in arguments.parts:
            continue
        if left < 1:
            print(f"== {part.name}: no time left")
            failed.append(part.name)
        elif not run(part, arguments.output, min(part.seconds, left)):
            failed.append(part.name)
    print("all parts passed" if not failed else f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
