"""Device of a benchmark: its selection, timing, memory bandwidth and peak memory."""

import argparse

import torch

from benchmarks.timing import SLOW_SECONDS, WALL_TIME, Call, Stopwatch, peak_of

DEVICES = ("cpu", "cuda")
COPIED_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}  # far more than any cache holds
QUEUED_CALLS = 20


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="device to measure (default: %(default)s)")


def require_device(parser: argparse.ArgumentParser, device: str) -> None:
    """Exit with status 2 and an error message if `device` is a GPU and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        reason = "PyTorch sees no NVIDIA GPU; python -m mamba.mamba_ssm.doctor explains why"
        parser.exit(2, f"{parser.prog}: error: --device cuda: {reason}\n")


def device_name(device: str) -> str:
    """Return the name of the GPU, or the number of threads."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"


def large_copy(device: str) -> Call:
    """Return a function that copies COPIED_BYTES in the device's memory, which moves twice as many bytes."""
    # Not zeros, because the system may map all of them to one page.
    source, target = (torch.ones(COPIED_BYTES[device], dtype=torch.uint8, device=device) for _ in range(2))
    return lambda: target.copy_(source)


def copy_rate(device: str, seconds: float) -> float:
    """Return the bytes read and written per second if `large_copy` takes `seconds`."""
    return 2 * COPIED_BYTES[device] / seconds


def stopwatch_of(device: str, copy: Call) -> Stopwatch:
    """Return the stopwatch for `interleaved_medians`; `copy` is the device's `large_copy`."""
    return by_events(copy) if device == "cuda" else WALL_TIME


def by_events(flush: Call) -> Stopwatch:
    """Return a stopwatch that times several calls (or one slow call) on the GPU, with events around each.

    Synchronising takes longer than a small kernel, so all calls are queued before the first synchronisation. `flush`
    runs before each call, so that the caches are cold, as the bandwidth limit assumes, and the host can launch the
    call while the GPU is busy. If launching takes even longer, the waiting time is part of the measurement.
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
    """Return the peak memory in bytes that a call needs in addition to what is already allocated.

    Args:
        device: "cpu" or "cuda".
        call: The call, measured in this process by PyTorch's allocator on a GPU.
        module: For the CPU, a module that makes the same call in a separate process and prints its peak.
        arguments: Command line of the module.
    """
    if device == "cpu":
        return peak_of(module, *arguments)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held
