"""Process many files in worker processes that may crash or hang, at the cost of one file only.

Decoders of damaged videos do both. `concurrent.futures` abandons all work if a process dies and cannot stop one that
hangs. pebble can, but its workers share one channel: if a process dies before pebble has read which job it took, the
job is lost or the pool breaks. Here, each process has its own connection, so a death costs only the job in hand.
"""

import math
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

_BEGUN = b""
"""What a worker answers before it begins a job."""


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
    waiting = list(jobs)[::-1]
    count = min(workers or os.cpu_count() or 1, len(waiting))
    busy: list[_Worker] = []
    with _without_current_folder():
        try:
            while waiting or busy:
                while waiting and len(busy) < count:
                    busy.append(_Worker(work, time_limit))
                    busy[-1].begin(waiting.pop())
                _wait_for_any(busy)
                for worker in list(busy):
                    outcome = worker.outcome()
                    if outcome is None:
                        continue
                    if waiting and worker.is_alive():
                        worker.begin(waiting.pop())
                    else:
                        busy.remove(worker)
                        worker.stop()
                    yield outcome
        finally:
            for worker in busy:
                worker.stop()


class _Worker:
    """A process that does one job after the other."""

    def __init__(self, work: Callable[[Any], Any], time_limit: float) -> None:
        # Spawn a new interpreter: a fork would inherit locks held by this process's threads (progress bar, FFmpeg).
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        self._process.start()
        theirs.close()  # or its end would stay open when the process dies
        self._time_limit = time_limit
        self._job, self.deadline = None, math.inf

    def begin(self, job: Any) -> None:
        """Hand over a job."""
        self._job, self.deadline = job, math.inf
        with suppress(OSError):  # the process has died, which `outcome` will report
            self.connection.send(job)

    def outcome(self) -> Outcome | None:
        """Return the outcome of the job, or None if it is still running."""
        alive = self.is_alive()  # before the last look at what it has said
        while self.connection.poll():
            try:
                answer = self.connection.recv_bytes()
            except (EOFError, OSError):
                return self._died()
            if answer != _BEGUN:
                return Outcome(self._job, *_unpickled(answer))
            self.deadline = time.monotonic() + self._time_limit
        if not alive:
            return self._died()
        if time.monotonic() < self.deadline:
            return None
        self._kill()
        return Outcome(self._job, error="it took longer than the time limit")

    def _died(self) -> Outcome:
        if self.is_alive():  # still on its way out, or it has only closed its connection
            self._process.join(5)
        self._kill()
        code = self._process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        return Outcome(self._job, error=f"its worker process died ({how})")

    def is_alive(self) -> bool:
        """Tell whether the process can take another job."""
        return self._process.is_alive()

    def stop(self) -> None:
        """End the process."""
        self._kill()
        self.connection.close()

    def _kill(self) -> None:
        self._process.kill()
        self._process.join()


def _wait_for_any(workers: list[_Worker]) -> None:
    """Sleep until a worker says something, dies, or reaches its deadline; at most a second.

    A child that a dead process has left behind keeps its connection open, so that death does not end the wait.
    """
    deadline = min(worker.deadline for worker in workers)
    wait([worker.connection for worker in workers], min(1.0, deadline - time.monotonic()))


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    """Do the jobs that arrive: answer each with `_BEGUN` when it begins, then with a pickled (value, error)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which stops its workers
    with suppress(EOFError, OSError):  # the main process is gone
        while True:
            job = connection.recv()
            connection.send_bytes(_BEGUN)  # the time limit starts here, after the process has been started
            connection.send_bytes(_pickled_outcome(work, job))


def _pickled_outcome(work: Callable[[Any], Any], job: Any) -> bytes:
    """Run a job in a worker process and return (value, error), pickled."""
    try:
        return pickle.dumps((work(job), ""))
    except Exception as error:  # noqa: BLE001 - reported with the file's name
        return pickle.dumps((None, f"{type(error).__name__}: {error}"))


def _unpickled(answer: bytes) -> tuple[Any, str]:
    """Return the (value, error) of a job whatever its value does when it is unpickled."""
    try:
        return pickle.loads(answer)
    except Exception as error:  # noqa: BLE001 - reported with the file's name
        return None, f"{type(error).__name__}: {error}"


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
