"""Work on many files by processes that may crash or hang: either costs one file, never the run.

concurrent.futures gives up all work when a process dies, and cannot end one that hangs; decoders of damaged videos do
both.
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

_EXIT_SECONDS = 5.0  # an idle process is given so long to leave by itself


@dataclass(frozen=True)
class Outcome:
    """What became of one job: its `value`, or in `error` why there is none."""

    job: Any
    value: Any = None
    error: str = ""


class _Worker:
    """A process that does one job at a time."""

    def __init__(self, context: SpawnContext, work: Callable[[Any], Any]):
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        with _without_current_folder():
            self.process.start()
        theirs.close()
        self.job: Any = None
        self.deadline = float("inf")

    def begin(self, job: Any, time_limit: float) -> None:
        self.job, self.deadline = job, time.monotonic() + time_limit
        self.connection.send(job)

    def finish(self) -> tuple[Any, str] | None:
        """The answer (value, error) to the job; None while it may still come."""
        try:
            if self.connection.poll():
                return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return None, f"the process that worked on it died ({_how(self.process.exitcode)})"
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
    """Do `work(job)` for every job in parallel and yield an outcome for each, in the order in which they end.

    Args:
        work: can be pickled; an exception of it is the outcome's error.
        jobs: can be pickled.
        workers: processes; 0: one for each processor.
        time_limit: seconds for one job, after which its process is killed and another takes its place.
    """
    # a fresh interpreter each: a fork would take over locks held by this process's threads (progress bar, FFmpeg)
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
    """Keep an interpreter that is started here from looking for Python's own modules in the current folder.

    That may be one of downloads, with a socket.py among them.
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
    """Let a process without work leave; one that does not is killed."""
    worker.connection.close()
    worker.process.join(_EXIT_SECONDS)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join()


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    """In the process: answer jobs with (value, error) until the other side closes."""
    while True:
        try:
            job = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer = (work(job), "")
        except Exception as error:  # noqa: BLE001 - whatever goes wrong with a file is told with its name
            answer = (None, f"{type(error).__name__}: {error}")
        connection.send(answer)


def _how(exit_code: int | None) -> str:
    return f"signal {-exit_code}" if exit_code is not None and exit_code < 0 else f"exit status {exit_code}"
