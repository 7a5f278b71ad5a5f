"""The device that a benchmark measures: the choice, its stopwatch, its memory's rate, and the peak of a call."""

import argparse

import torch

from benchmarks.timing import SLOW_SECONDS, WALL_TIME, Call, Stopwatch, peak_of

DEVICES = ("cpu", "cuda")
COPIED_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}  # far more than any cache holds
QUEUED_CALLS = 20


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --device."""
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="what is measured (default: %(default)s)")


def require_device(parser: argparse.ArgumentParser, device: str) -> None:
    """Ends the program with a line and exit status 2 where `device` is a GPU and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        reason = "PyTorch sees no NVIDIA GPU; python -m mamba.mamba_ssm.doctor says why"
        parser.exit(2, f"{parser.prog}: error: --device cuda: {reason}\n")


def device_name(device: str) -> str:
    """The GPU's name, or the number of threads."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"


def large_copy(device: str) -> Call:
    """A function that copies COPIED_BYTES within the device's memory, so that it moves twice as many."""
    # Not zeros: the system may back all of them by one page.
    source, target = (torch.ones(COPIED_BYTES[device], dtype=torch.uint8, device=device) for _ in range(2))
    return lambda: target.copy_(source)


def copy_rate(device: str, seconds: float) -> float:
    """Bytes read and written a second where `large_copy` takes `seconds`."""
    return 2 * COPIED_BYTES[device] / seconds


def stopwatch_of(device: str, copy: Call) -> Stopwatch:
    """The stopwatch for `interleaved_medians`; `copy` is the device's `large_copy`."""
    return by_events(copy) if device == "cuda" else WALL_TIME


def by_events(flush: Call) -> Stopwatch:
    """A stopwatch of what the GPU spends on each of a few calls (one, where it is slow), by events around each.

    Waiting for the GPU takes longer than a small kernel, so all are queued before the first wait. `flush` goes ahead
    of each call: the call finds cold caches, as the limit of bytes over bandwidth supposes, and while the GPU is busy
    with it the host gets its launches done. What takes the host longer than that is measured together with the wait.
    """

    def seconds_of(call: Call) -> list[float]:
        seconds = _queued(call, flush, 1)
        return seconds if seconds[0] > SLOW_SECONDS else seconds + _queued(call, flush, QUEUED_CALLS)

    return seconds_of


def _queued(call: Call, flush: Call, count: int) -> list[float]:
    spans = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(count)]
    for began, ended in spans:
        flush()
        began.record()
        call()
        ended.record()
    torch.cuda.synchronize()
    return [began.elapsed_time(ended) / 1e3 for began, ended in spans]


def peak_of_call(device: str, call: Call, module: str, *arguments: str) -> int:
    """Bytes that a call adds at its peak to what is held before it.

    Args:
        call: for a GPU, whose allocator is asked in this process.
        module, arguments: for the CPU, a program that does the same in a process of its own and prints its peak.
    """
    if device == "cpu":
        return peak_of(module, *arguments)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held
