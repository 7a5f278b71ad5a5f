"""Interleaved timing (A B A B in one process, medians), and peak memory in separate processes."""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

SLOW_SECONDS = 0.1  # a call longer than this is timed once per round, a shorter one repeatedly
SLICE_SECONDS = 0.3  # time per round of a fast candidate
MIN_ROUNDS, BUDGET_SECONDS = 3, 6.0  # a candidate is skipped after both

Call = Callable[[], object]
Stopwatch = Callable[[Call], list[float]]  # calls its argument once or several times and returns the seconds of each


def by_clock(clock: Callable[[], float]) -> Stopwatch:
    """Return a stopwatch of one call by a clock, such as `time.process_time` on a shared machine."""

    def seconds_of(call: Call) -> list[float]:
        began = clock()
        call()
        return [clock() - began]

    return seconds_of


WALL_TIME = by_clock(time.perf_counter)


def interleaved_medians(
    candidates: dict[str, Call], rounds: int, stopwatch: Stopwatch = WALL_TIME
) -> dict[str, float]:
    """Measure the median seconds per call of each candidate.

    The candidates take turns, so that other load on the machine affects all of them equally.

    Args:
        candidates: Calls to time, by name, already warmed up.
        rounds: Turns per candidate.
        stopwatch: How to time a call.

    Returns:
        Median seconds per call, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds):
        for name, call in candidates.items():
            if turn >= MIN_ROUNDS and sum(seconds[name]) > BUDGET_SECONDS:
                continue
            until = time.perf_counter() + SLICE_SECONDS
            while True:
                seconds[name] += stopwatch(call)
                if time.perf_counter() >= until or seconds[name][-1] > SLOW_SECONDS:
                    break
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_bytes() -> int:
    """Return the peak resident memory of this process so far, in bytes."""
    try:
        with open("/proc/self/status") as handle:  # getrusage's peak would include the parent's, on Linux
            return next(1024 * int(line.split()[1]) for line in handle if line.startswith("VmHWM:"))
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_of(module: str, *arguments: str) -> int:
    """Run `python -m module arguments` in a new process and return the number of bytes it prints.

    Raises:
        subprocess.CalledProcessError: The process failed; its messages are on stderr.
    """
    done = subprocess.run([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1])
