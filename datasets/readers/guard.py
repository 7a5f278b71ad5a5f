"""Reading in a process of its own, which may hang or crash: that costs the file, not the run.

A decoder is a large C library fed with files from anywhere. One that loops for ever, or takes its process down, would
stop the loader worker it runs in and with it the training. A `Guard` therefore keeps a helper process for its worker
(helper.py): requests go over a socket, frames come back in shared memory. A file whose helper dies, by a fault of the
decoder or because it takes longer than `time_limit` seconds, is told as unreadable, and the next request starts a new
helper.

Only seconds in which the helper could work count: not those in which it, or this process, is stopped (a suspended
job), nor those in which it waits for a disk (a file system that does not answer). What the system does not tell apart
from a hang, such as a stalled file system in user space, makes a file that was asleep at the end be tried once more.
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

logger = logging.getLogger(__name__)

LEAST_SECONDS, LEAST_SHARE = 5.0, 1 / 30
"""What a file may take even when others have used up the budget: seconds, but no more than this share of it."""

_TICK = 1.0
_EXCUSED = {"D", "T", "t"}  # waits for a disk, stopped, stopped by a debugger
_ASLEEP = {"S"}


class Guard:
    """Opens readers in a helper process; each process that holds (or inherits) a guard starts a helper of its own."""

    def __init__(self, time_limit: float, budget: float = math.inf):
        """Remember how long files may take; nothing is started yet.

        Args:
            time_limit: seconds for opening a file, and for reading its frames.
            budget: seconds that files which take too long may cost in all, until `start_pass`: of what is left one
                may take half, or a little at least (`LEAST_SECONDS`). Processes that are forked share it.
        """
        self.time_limit, self.budget = time_limit, budget
        self._lost = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), dtype=np.float64, count=1)
        self._owner = 0
        self._opened = 0

    def __reduce__(self):
        """Pickle without the helper."""
        return type(self), (self.time_limit, self.budget)

    def start_pass(self) -> None:
        """Begin another pass over the files: the whole budget is there again."""
        self._lost[0] = 0

    def open(self, path: str, make_reader: Callable[[], Sized]) -> "GuardedReader":
        """Call `make_reader`, which can be pickled, in the helper.

        Raises:
            UnreadableVideoError: with `path`, whatever the reader raised, or the decoder crashed or took too long.
            RuntimeError: the helper does not start, which is no fault of a file.
        """
        self._make_reader = make_reader
        self._opened += 1
        return GuardedReader(self, path, self._opened, self._ask(path, make_reader))

    def read(self, reader: "GuardedReader", indices: np.ndarray) -> np.ndarray:
        """Do `reader.read`."""
        self._check_open(reader)
        shape = self._ask(reader.path, indices)
        with failures_of(reader.path):
            return self._frames.view(shape)

    def rate(self, reader: "GuardedReader") -> Fraction | None:
        """Do `reader.rate`."""
        self._check_open(reader)
        return self._ask(reader.path, ASK_RATE)

    def _check_open(self, reader: "GuardedReader") -> None:
        if reader.number != self._opened:
            raise RuntimeError(f"{reader.path} is no longer open: its guard has opened another file")

    @property
    def helper(self) -> int | None:
        """Process id of this process's helper; None where it has none."""
        return self._process.pid if self._owner == os.getpid() else None

    def close(self) -> None:
        """Stop the helper, where there is one."""
        if self._owner == os.getpid():
            self._owner = 0
            self._stop()

    def _ask(self, path: str, request: Callable[[], Sized] | np.ndarray | str) -> Any:
        """Send a request and wait for its answer; once more, where the helper fell asleep over it."""
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
        """Wait for an answer, and count the seconds in which the helper could work on it."""
        least = min(LEAST_SECONDS, LEAST_SHARE * self.budget)
        limit = min(self.time_limit, max((self.budget - self._lost[0]) / 2, least))
        tick = min(_TICK, limit / 4)
        counted = excused = 0.0
        # Ticks are counted, and not the time: while this process is stopped there are none.
        while not self._connection.poll(tick):
            states = _thread_states(self._process.pid)
            if states & _EXCUSED:
                excused += tick
                if excused - tick < limit <= excused:
                    logger.warning("still waiting for %s: its reader is stopped, or the disk does not answer", path)
                continue
            counted += tick
            if counted >= limit:
                self._lost[0] += limit
                self.close()
                raise _TooLongError(path, limit, self.time_limit, asleep=states <= _ASLEEP)
        return self._connection.recv()

    def _start(self) -> None:
        mine, its = socket.socketpair()
        lifeline, held = os.pipe()
        self._frames = SharedFrames(anonymous_file())
        self._process = start_helper(its.fileno(), self._frames.file, lifeline)
        its.close()
        os.close(lifeline)
        self._connection = Connection(mine.detach())
        self._owner = os.getpid()
        # whatever order a garbage collector takes: the helper is stopped once, and by the process that started it
        self._stop = weakref.finalize(
            self, _stop_helper, self._owner, self._process, self._connection, (self._frames.file, held)
        )
        try:
            self._connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"the process that decodes videos does not start ({self._end()})") from error

    def _end(self) -> str:
        """Stop the helper, which has ended by itself, and say how it did."""
        self.close()
        status = self._process.returncode
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"


class _TooLongError(UnreadableVideoError):
    """A file took `limit` seconds, the time limit or what was left of it; `asleep`: without computing at the end."""

    def __init__(self, path: str, limit: float, time_limit: float, *, asleep: bool):
        less = "" if limit == time_limit else f", cut down from {time_limit:g} s after other files took too long"
        super().__init__(path, f"it takes longer than {limit:g} s (--read_timeout{less})")
        self.asleep = asleep

    def __reduce__(self):
        return UnreadableVideoError, (self.path, self.reason)


def _thread_states(process: int) -> set[str]:
    """Give the letters by which Linux tells what the threads of a process do; none where there is no /proc."""
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
    """A reader whose file is open in the helper of a `Guard`, until the guard opens the next one."""

    def __init__(self, guard: Guard, path: str, number: int, length: int):
        """Be the reader of that number of a guard; `length` is the number of frames."""
        self.path, self.number = path, number
        self._guard, self._length = guard, length

    def __len__(self) -> int:
        return self._length

    @property
    def rate(self) -> Fraction | None:
        """Frames per second on average; None where the file does not tell."""
        return self._guard.rate(self)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode the frames (T,) -> uint8 (T, H, W, 3), which the guard's next reading overwrites.

        Raises:
            UnreadableVideoError: whatever the reader raised, or the decoder crashed or took too long.
        """
        return self._guard.read(self, np.asarray(indices))
