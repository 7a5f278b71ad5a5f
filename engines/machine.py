"""The computing threads and dataloader workers that suit a machine: --num_workers auto."""

import logging
import os
from typing import Any

import torch

from common.flag_types import AUTO

_logger = logging.getLogger(__name__)

MOST_WORKERS = 12
"""Workers per process of the published runs, which keep a GPU busy."""

CORES_PER_WORKER = 4
"""Cores of a run without a GPU of which one decodes: training on CPUs takes several times as long as decoding."""


def usable_cores() -> int:
    """Return the number of cores that this process may use: its affinity; quotas of time do not count."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_of_process() -> int:
    """Return the cores for each of the processes that torchrun started on this machine, at least 1."""
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def suited_workers(cores: int, *, gpu: bool) -> int:
    """Return how many dataloader workers suit a process; the cores that are left compute.

    Without a GPU, every thread of an operation waits for the slowest, so a worker that competes with them for a core
    delays them all. On fewer than `CORES_PER_WORKER` cores there is none: the process decodes its own clips.

    Args:
        cores: Cores for this process.
        gpu: Whether the model runs on a GPU, and one thread, which starts its kernels, is enough.
    """
    return min(MOST_WORKERS, max(1, cores - 1) if gpu else cores // CORES_PER_WORKER)


def settle_workers(flags: dict[str, Any]) -> None:
    """Replace --num_workers auto by the number for this machine, set the number of threads, and log both.

    `OMP_NUM_THREADS`, which torchrun sets, too, keeps its effect.

    Args:
        flags: Flags of the run, changed in place.
    """
    if flags.get("num_workers") != AUTO:
        return
    gpu = torch.cuda.is_available() if not flags.get("device") else flags["device"].startswith("cuda")
    cores = cores_of_process()
    workers = suited_workers(cores, gpu=gpu)
    flags["num_workers"] = workers
    if not gpu and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores - workers)
    _logger.info(
        "--num_workers auto: %d core(s) for a process on %s: %d computing thread(s) and %d worker(s)",
        *(cores, "a GPU" if gpu else "the CPU", torch.get_num_threads(), workers),
    )
