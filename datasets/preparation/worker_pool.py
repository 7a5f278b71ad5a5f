"""Process many files in worker processes that may crash or hang, at the cost of one file only.

Decoders of damaged videos do both. The pool is pebble's: concurrent.futures abandons all work if a process dies and
cannot stop one that hangs.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from pebble import ProcessExpired, ProcessPool


@dataclass(frozen=True)
class Outcome:
    """Result of one job: its `value`, or the reason why there is none in `error`."""

    job: Any
    value: Any = None
    error: str = ""


def run_jobs(
    work: Callable[[Any], Any], jobs: Iterable[Any], *, workers: int = 0, time_limit: float = 60.0
) -> Iterator[Outcome]:
    """Run `work(job)` for all jobs in parallel and yield their outcomes in the order of completion.

    Args:
        work: Picklable function; an exception becomes the outcome's error.
        jobs: Picklable arguments of `work`.
        workers: Number of processes; 0 starts one per processor.
        time_limit: Seconds per job, after which its process is killed and replaced.

    Yields:
        One outcome per job.
    """
    waiting = list(jobs)
    count = min(workers or os.cpu_count() or 1, len(waiting))
    if not count:
        return
    # Spawn new interpreters: a fork would inherit locks held by this process's threads (progress bar, FFmpeg).
    context: Any = multiprocessing.get_context("spawn")
    with _without_current_folder():
        pool = ProcessPool(max_workers=count, context=context)
        try:
            attempt = partial(_attempt, work)
            running: Any = {pool.schedule(attempt, args=[job], timeout=time_limit): job for job in waiting}
            for future in as_completed(running):
                yield Outcome(running.pop(future), *_result(future))
        finally:
            pool.stop()
            pool.join()


def _attempt(work: Callable[[Any], Any], job: Any) -> tuple[Any, str]:
    """Run a job in a worker process and return (value, error)."""
    try:
        return work(job), ""
    except Exception as error:  # noqa: BLE001 - reported with the file's name
        return None, f"{type(error).__name__}: {error}"


def _result(future: Future) -> tuple[Any, str]:
    """Return (value, error) of a finished job."""
    try:
        return future.result()
    except TimeoutError:
        return None, "it took longer than the time limit"
    except ProcessExpired as error:
        code = error.exitcode
        return None, f"its worker process died ({f'signal {-code}' if code < 0 else f'exit status {code}'})"


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """Keep interpreters started in the block from importing standard modules from the current folder.

    The current folder may be one of downloads that contains, say, a socket.py.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before
