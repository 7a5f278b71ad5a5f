"""Timing side by side: rounds of A B A B in one process, medians; peak memory in a process of each one's own."""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

SLOW_SECONDS = 0.1  # a call longer than this is timed once a round, a shorter one repeatedly
SLICE_SECONDS = 0.3  # time given to a fast candidate in each round
MIN_ROUNDS, BUDGET_SECONDS = 3, 6.0  # a candidate rests once it has had both

Call = Callable[[], object]
Stopwatch = Callable[[Call], list[float]]  # calls its argument once or a few times and returns the seconds of each


def by_clock(clock: Callable[[], float]) -> Stopwatch:
    """A stopwatch of one call; `clock` gives the seconds that count: `time.process_time` where others compute, too."""

    def seconds_of(call: Call) -> list[float]:
        began = clock()
        call()
        return [clock() - began]

    return seconds_of


WALL_TIME = by_clock(time.perf_counter)


def interleaved_medians(
    candidates: dict[str, Call], rounds: int, stopwatch: Stopwatch = WALL_TIME
) -> dict[str, float]:
    """Median seconds of one call of every candidate.

    The candidates take turns, so that whatever else the machine does in the meantime falls on all of them alike.

    Args:
        candidates: name -> the call to time, already warm.
        rounds: turns each candidate gets.
        stopwatch: how a call is timed.

    Returns:
        name -> median seconds a call.
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
    """Peak resident memory of this process so far, in bytes."""
    try:
        with open("/proc/self/status") as handle:  # getrusage's peak would include the parent's, on Linux
            return next(1024 * int(line.split()[1]) for line in handle if line.startswith("VmHWM:"))
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_of(module: str, *arguments: str) -> int:
    """Runs `python -m module arguments` in a fresh process and returns the number of bytes it prints.

    Raises:
        subprocess.CalledProcessError: the process failed; its messages are on stderr.
    """
    done = subprocess.run([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.split()[-1])
