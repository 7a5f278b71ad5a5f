"""Reading in a process of its own, which may hang or crash: that costs the file, not the run.

A decoder is a large C library fed with files from anywhere. One that loops for ever, or takes its process down, would
stop the loader worker it runs in and with it the training. A `Guard` therefore keeps a helper process for its worker:
requests go over a socket, frames come back in shared memory. Where the helper dies, by a fault of the decoder or
because the kernel's alarm clock ends a request after `time_limit` seconds (it also ends code that never returns to
Python), the file is told as unreadable and the next request starts a new helper.
"""

import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence, Sized
from multiprocessing.connection import Connection

import numpy as np

from datasets.memory import keep_freed_memory
from datasets.readers.errors import UnreadableVideoError

# decord, which takes its time, is imported before the clock of the first read runs.
_HELPER = "import datasets.readers.decord_decoder; from datasets.readers.guard import serve; "
_HELPER += "serve(*map(float, __import__('sys').argv[1:]))"


class Guard:
    """Opens readers in a helper process; each process that holds (or inherits) a guard starts a helper of its own."""

    def __init__(self, time_limit: float):
        """Remember the seconds that opening a file, and reading its frames, may take; nothing is started yet."""
        self.time_limit = time_limit
        self._owner = 0
        self._opened = 0

    def __reduce__(self):
        """Pickle without the helper."""
        return type(self), (self.time_limit,)

    def open(self, path: str, make_reader: Callable[[], Sized]) -> "GuardedReader":
        """Call `make_reader`, which can be pickled, in the helper; raises `UnreadableVideoError` with `path`."""
        length = self._ask(path, make_reader)
        self._opened += 1
        return GuardedReader(self, path, self._opened, length)

    def read(self, reader: "GuardedReader", indices: np.ndarray) -> np.ndarray:
        """Do `reader.read`."""
        if reader.number != self._opened:
            raise RuntimeError(f"{reader.path} is no longer open: its guard has opened another file")
        shape = self._ask(reader.path, indices)
        return self._frames.view(shape)

    @property
    def helper(self) -> int | None:
        """Process id of this process's helper; None where it has none."""
        return self._process.pid if self._owner == os.getpid() else None

    def close(self) -> None:
        """Stop the helper, where there is one."""
        if self._owner == os.getpid():
            self._owner = 0
            self._stop()

    def _ask(self, path: str, request: Callable[[], Sized] | np.ndarray):
        """Send a request and wait for its answer."""
        if self._owner != os.getpid():
            self._start()
        try:
            self._connection.send(request)
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise UnreadableVideoError(path, self._cause_of_death()) from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _start(self) -> None:
        mine, its = socket.socketpair()
        self._frames = _SharedFrames(_anonymous_file())
        inherited = [its.fileno(), self._frames.file]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _HELPER, *map(str, [*inherited, self.time_limit])],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        its.close()
        self._connection = Connection(mine.detach())
        self._owner = os.getpid()
        # whatever order a garbage collector takes: the helper is stopped once, and by the process that started it
        self._stop = weakref.finalize(
            self, _stop_helper, self._owner, self._process, self._connection, self._frames.file
        )

    def _cause_of_death(self) -> str:
        self.close()
        status = self._process.returncode
        if status == -signal.SIGALRM:
            return f"it takes longer than {self.time_limit:g} s (--read_timeout)"
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"the decoder crashed ({name})"


def _stop_helper(owner: int, process: subprocess.Popen, connection: Connection, memory: int) -> None:
    if owner == os.getpid():
        connection.close()
        process.kill()
        process.wait()
        os.close(memory)


class GuardedReader:
    """A reader whose file is open in the helper of a `Guard`, until the guard opens the next one."""

    def __init__(self, guard: Guard, path: str, number: int, length: int):
        """Be the reader of that number of a guard; `length` is the number of frames."""
        self.path, self.number = path, number
        self._guard, self._length = guard, length

    def __len__(self) -> int:
        """Give the number of frames."""
        return self._length

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Decode the frames (T,) -> uint8 (T, H, W, 3), which the guard's next reading overwrites.

        Raises:
            UnreadableVideoError: frames do not decode, or the decoder crashed or took too long.
        """
        return self._guard.read(self, np.asarray(indices))


def serve(connection: float, memory: float, time_limit: float) -> None:
    """Answer requests, in the helper, until the other side is gone.

    A callable opens a reader and is answered by its length; frame numbers are read from the reader opened last and
    answered by the shape of the frames, which lie in shared memory. An exception is an answer too.
    """
    keep_freed_memory()
    requests = Connection(int(connection))
    # launchers and schedulers signal every process of a job; this one ends with the one it reads for
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    frames = _SharedFrames(int(memory))
    reader = None
    while True:
        try:
            request = requests.recv()
        except (EOFError, ConnectionError):
            return
        signal.setitimer(signal.ITIMER_REAL, time_limit)
        try:
            if callable(request):
                reader = request()
                answer = len(reader)
            else:
                answer = frames.store(reader.read(request))
        except Exception as error:  # noqa: BLE001, whatever it is, the other side raises it
            answer = error
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            requests.send(answer)
        except ConnectionError:
            return


class _SharedFrames:
    """Frames in a file that two processes map into their memory."""

    def __init__(self, file: int):
        self.file = file
        self._mapped: mmap.mmap | None = None

    def store(self, frames: np.ndarray) -> tuple[int, ...]:
        """Write frames and return their shape, with which the other side can view them."""
        if os.fstat(self.file).st_size < frames.nbytes:
            os.ftruncate(self.file, frames.nbytes)
        np.copyto(self.view(frames.shape), frames)
        return frames.shape

    def view(self, shape: Sequence[int]) -> np.ndarray:
        """View what was stored last; the next `store` overwrites it."""
        size = math.prod(shape)
        if self._mapped is None or len(self._mapped) < size:
            self._mapped = mmap.mmap(self.file, 0)
        return np.frombuffer(self._mapped, dtype=np.uint8, count=size).reshape(shape)


def _anonymous_file() -> int:
    """Make a file without a name: in memory where the system can, and so not subject to the size of /dev/shm."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
