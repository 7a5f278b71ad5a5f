"""Process many files in worker processes that may crash or hang, at the cost of one file only.

Decoders of damaged videos do both. concurrent.futures abandons all work if a process dies and cannot stop one that
hangs.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from typing import Any

_EXIT_SECONDS = 5.0  # time for an idle process to exit by itself


@dataclass(frozen=True)
class Outcome:
    """Result of one job: its `value`, or the reason why there is none in `error`."""

    job: Any
    value: Any = None
    error: str = ""


class _Worker:
    """A process that does one job at a time."""

    def __init__(self, context: SpawnContext, work: Callable[[Any], Any]):
        self.connection, child_connection = context.Pipe()
        self.process = context.Process(target=_serve, args=(child_connection, work), daemon=True)
        with _without_current_folder():
            self.process.start()
        child_connection.close()
        self.job: Any = None
        self.deadline = float("inf")

    def begin(self, job: Any, time_limit: float) -> None:
        self.job, self.deadline = job, time.monotonic() + time_limit
        self.connection.send(job)

    def finish(self) -> tuple[Any, str] | None:
        """Return the job's (value, error); None while it is running within its time limit."""
        try:
            if self.connection.poll():
                return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return None, f"its worker process died ({_describe_exit(self.process.exitcode)})"
        if time.monotonic() >= self.deadline:
            self.stop()
            return None, "it took longer than the time limit"
        return None

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


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
    # Spawn new interpreters: a fork would inherit locks held by this process's threads (progress bar, FFmpeg).
    context = multiprocessing.get_context("spawn")
    waiting = list(jobs)[::-1]
    pool: list[_Worker] = []
    try:
        for _ in range(min(workers or os.cpu_count() or 1, len(waiting))):
            pool.append(_Worker(context, work))
            pool[-1].begin(waiting.pop(), time_limit)
        while pool:
            patience = min(worker.deadline for worker in pool) - time.monotonic()
            wait([worker.connection for worker in pool], timeout=max(0.0, patience))
            for i, worker in enumerate(pool):
                answer = worker.finish()
                if answer is None:
                    continue
                yield Outcome(worker.job, *answer)
                if waiting:
                    if not worker.process.is_alive():
                        worker = pool[i] = _Worker(context, work)
                    worker.begin(waiting.pop(), time_limit)
                else:
                    worker.deadline = float("-inf")
            for worker in [worker for worker in pool if worker.deadline == float("-inf")]:
                pool.remove(worker)
                _dismiss(worker)
    finally:
        for worker in pool:
            worker.stop()


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


def _dismiss(worker: _Worker) -> None:
    """Let an idle process exit, and kill it if it does not."""
    worker.connection.close()
    worker.process.join(_EXIT_SECONDS)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    """Run in the worker process: reply to each job with (value, error) until the connection is closed."""
    while True:
        try:
            job = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer = (work(job), "")
        except Exception as error:  # noqa: BLE001 - reported with the file's name
            answer = (None, f"{type(error).__name__}: {error}")
        connection.send(answer)


def _describe_exit(exit_code: int | None) -> str:
    return f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit status {exit_code}"
