"""Read files in a separate process, so that a decoder that hangs or crashes costs one file and not the run.

Decoders are large C libraries that are fed with files from anywhere. An infinite loop or a crash would stop the
dataloader worker, and with it the training. A `Guard` therefore runs a helper process for its worker (helper.py):
requests are sent over a socket, and frames are returned in shared memory. If the helper crashes, or takes longer than
`time_limit` seconds, the file is reported as unreadable, and the next request starts a new helper.

Only the time in which the helper can run is counted, not the time in which it or this process is stopped (a suspended
job) or in which it waits for a disk (a file system that does not respond). Some waits look like a hang, for example
those for a stalled file system in user space; if the helper is asleep when the time is up, the file is therefore tried
a second time.
"""

import contextlib
import logging
import math
import mmap
import os
import pickle
import signal
import socket
import subprocess
import weakref
from collections.abc import Callable, Sequence, Sized
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from datasets.readers.errors import UnreadableVideoError, failures_of
from datasets.readers.helper import ASK_RATE, start_helper
from datasets.readers.shared_frames import SharedFrames, anonymous_file
from datasets.readers.videos import DECODERS, MODULES

logger = logging.getLogger(__name__)

LEAST_SECONDS, LEAST_SHARE = 5.0, 1 / 30
"""Minimum time for a file when others have used up the budget: seconds, but at most this share of the budget."""

_TICK = 1.0
_EXCUSED = {"D", "T", "t"}  # states: waiting for a disk, stopped, stopped by a debugger
_ASLEEP = {"S"}


class Guard:
    """Open readers in a helper process; each process that holds or inherits a guard starts its own helper.

    Args:
        time_limit: Seconds for opening a file, and for reading its frames.
        budget: Total seconds that files over the limit may cost until the next `start_pass`. One file may use half of
            the remaining budget, but at least `LEAST_SECONDS`. Forked processes share the budget.
        reader: Library that is imported before the time of the first file counts, one of `DECODERS`.
    """

    def __init__(self, time_limit: float, budget: float = math.inf, reader: str = DECODERS[0]):
        self.time_limit, self.budget, self.reader = time_limit, budget, reader
        self._lost = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), dtype=np.float64, count=1)
        self._owner = 0
        self._opened = 0

    def __reduce__(self):
        # Pickled without the helper.
        return type(self), (self.time_limit, self.budget, self.reader)

    def start_pass(self) -> None:
        """Start another pass over the files with a full budget."""
        self._lost[0] = 0

    def open(self, path: str, make_reader: Callable[[], Sized]) -> "GuardedReader":
        """Call `make_reader`, which must be picklable, in the helper.

        Raises:
            UnreadableVideoError: The reader raised an exception, or the decoder crashed or took too long.
            RuntimeError: The helper does not start, whatever the file.
        """
        self._make_reader = make_reader
        self._opened += 1
        return GuardedReader(self, path, self._opened, self._ask(path, make_reader))

    def read(self, reader: "GuardedReader", indices: np.ndarray) -> np.ndarray:
        """Read frames of the reader opened last, for `GuardedReader.read`."""
        self._check_open(reader)
        shape = self._ask(reader.path, indices)
        with failures_of(reader.path):
            return self._frames.view(shape)

    def rate(self, reader: "GuardedReader") -> Fraction | None:
        """Return the frame rate of the reader opened last, for `GuardedReader.rate`."""
        self._check_open(reader)
        return self._ask(reader.path, ASK_RATE)

    def _check_open(self, reader: "GuardedReader") -> None:
        if reader.number != self._opened:
            raise RuntimeError(f"{reader.path} is no longer open: its guard has opened another file")

    @property
    def helper(self) -> int | None:
        """Process id of this process's helper; None if there is none."""
        return self._process.pid if self._owner == os.getpid() else None

    def close(self) -> None:
        """Stop the helper, if there is one."""
        if self._owner == os.getpid():
            self._owner = 0
            self._stop()

    def _ask(self, path: str, request: Callable[[], Sized] | np.ndarray | str) -> Any:
        """Send a request and return its answer; retry once if the helper was asleep when the time was up."""
        try:
            return self._ask_once(path, request)
        except _TooLongError as error:
            if not error.asleep:
                raise
        return self._ask_once(path, request)

    def _ask_once(self, path: str, request: Callable[[], Sized] | np.ndarray | str) -> Any:
        if self._owner != os.getpid():
            self._start()
            if not callable(request):
                self._send(path, self._make_reader)
        return self._send(path, request)

    def _send(self, path: str, request: Callable[[], Sized] | np.ndarray | str) -> Any:
        pickled = pickle.dumps(request)
        try:
            self._connection.send((path, pickled))
            answer = self._answer(path)
        except (EOFError, OSError) as error:
            raise UnreadableVideoError(path, f"the decoder crashed ({self._end()})") from error
        if isinstance(answer, UnreadableVideoError):
            raise answer
        return answer

    def _answer(self, path: str) -> Any:
        """Wait for an answer, counting the seconds in which the helper could run."""
        least = min(LEAST_SECONDS, LEAST_SHARE * self.budget)
        limit = min(self.time_limit, max((self.budget - self._lost[0]) / 2, least))
        tick = min(_TICK, limit / 4)
        counted = excused = 0.0
        # Count ticks instead of time, because there are none while this process is stopped.
        while not self._connection.poll(tick):
            states = _thread_states(self._process.pid)
            if states & _EXCUSED:
                excused += tick
                if excused - tick < limit <= excused:
                    logger.warning("still waiting for %s: its reader is stopped, or the disk does not respond", path)
                continue
            counted += tick
            if counted >= limit:
                self._lost[0] += limit
                self.close()
                raise _TooLongError(path, limit, self.time_limit, asleep=states <= _ASLEEP)
        return self._connection.recv()

    def _start(self) -> None:
        parent_socket, helper_socket = socket.socketpair()
        lifeline, held = os.pipe()
        self._frames = SharedFrames(anonymous_file())
        self._process = start_helper(helper_socket.fileno(), self._frames.file, lifeline, MODULES[self.reader])
        helper_socket.close()
        os.close(lifeline)
        self._connection = Connection(parent_socket.detach())
        self._owner = os.getpid()
        # Whatever the order of garbage collection, the helper is stopped once, by the process that started it.
        self._stop = weakref.finalize(
            self, _stop_helper, self._owner, self._process, self._connection, (self._frames.file, held)
        )
        try:
            self._connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"the helper process that decodes videos does not start ({self._end()})") from error

    def _end(self) -> str:
        """Clean up after a helper that has ended by itself, and describe how it ended."""
        self.close()
        status = self._process.returncode
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"


class _TooLongError(UnreadableVideoError):
    """Reading exceeded `limit` seconds, the time limit or less; `asleep` if the helper was not running then."""

    def __init__(self, path: str, limit: float, time_limit: float, *, asleep: bool):
        less = "" if limit == time_limit else f", reduced from {time_limit:g} s because other files took too long"
        super().__init__(path, f"it takes longer than {limit:g} s (--read_timeout{less})")
        self.asleep = asleep

    def __reduce__(self):
        return UnreadableVideoError, (self.path, self.reason)


def _thread_states(process: int) -> set[str]:
    """Return the state letters of the threads of a Linux process; empty without /proc."""
    states = set()
    for file in Path(f"/proc/{process}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            states.add(file.read_text(errors="replace").rpartition(")")[2].split()[0])
    return states


def _stop_helper(owner: int, process: subprocess.Popen, connection: Connection, descriptors: Sequence[int]) -> None:
    if owner == os.getpid():
        connection.close()
        process.kill()
        process.wait()
        for descriptor in descriptors:
            os.close(descriptor)


class GuardedReader:
    """A reader whose file is open in the helper of a `Guard` until the guard opens another file.

    Args:
        guard: The guard.
        path: File or folder, for messages.
        number: Sequence number of the reader among those of the guard.
        length: Number of frames.
    """

    def __init__(self, guard: Guard, path: str, number: int, length: int):
        self.path, self.number = path, number
        self._guard, self._length = guard, length

    def __len__(self) -> int:
        return self._length

    @property
    def rate(self) -> Fraction | None:
        """Frames per second on average; None if the file does not say."""
        return self._guard.rate(self)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode frames (T,) -> uint8 (T, H, W, 3); the guard's next read overwrites them.

        Raises:
            UnreadableVideoError: The reader raised an exception, or the decoder crashed or took too long.
        """
        return self._guard.read(self, np.asarray(indices))
