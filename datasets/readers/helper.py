"""The helper process of a `Guard`: how it is started and what it runs."""

import fcntl
import os
import pickle
import select
import signal
import subprocess
import sys
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from common.memory import LARGE_BYTES, keep_freed_memory, release_after
from datasets.readers import new_frames
from datasets.readers.errors import UnreadableVideoError, failures_of
from datasets.readers.shared_frames import SharedFrames

ASK_RATE = "rate"

# The decoder, whose import is slow, is imported before the time of the first file counts.
_PROGRAM = """
import sys
sys.path[:] = {path}
import {decoder}
from datasets.readers.helper import serve
serve{descriptors}
"""


def start_helper(connection: int, memory: int, lifeline: int, decoder: str) -> subprocess.Popen:
    """Start a process that imports the module `decoder` and runs `serve` on three descriptors, which it inherits."""
    descriptors = (connection, memory, lifeline)
    program = _PROGRAM.format(path=ascii(_import_path()), decoder=decoder, descriptors=descriptors)
    return subprocess.Popen(
        [sys.executable, "-I", "-c", program],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
    )


def _import_path() -> list[str]:
    """Return this process's import path, with the current folder last unless it contains this project.

    The current folder may contain downloads, and a file such as socket.py must not hide a standard module.
    """
    root = str(Path(__file__).parents[2])
    folders = [*filter(None, sys.path), root]
    return sorted(folders, key=lambda folder: _same(folder, os.curdir) and not _same(folder, root))


def _same(folder: str, other: str) -> bool:
    try:
        return os.path.samefile(folder, other)
    except OSError:
        return False


def serve(connection: int, memory: int, lifeline: int) -> None:
    """Answer requests, in the helper, until the connection is closed.

    A request is a path and a pickled object. A callable opens a reader; the answer is the number of frames. An array
    of frame numbers is read from the reader opened last; the answer is the shape of the frames in shared memory.
    `ASK_RATE` asks for that reader's frames per second. An answer may also be an `UnreadableVideoError`.
    """
    _end_with(lifeline)
    keep_freed_memory()
    requests = Connection(connection)
    # Launchers and schedulers signal every process of a job; the helper ends with the process it reads for.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
    reading = _Reading(SharedFrames(memory))
    requests.send("ready")
    while True:
        try:
            requests.send(reading.answer(*requests.recv()))
        except (EOFError, ConnectionError):
            return
        release_after(reading.size)


class _Reading:
    """The open reader and the shared memory for its frames."""

    def __init__(self, frames: SharedFrames):
        self.frames = frames
        self.reader: Any = None
        self.size = 0  # bytes of the frames read last

    def answer(self, path: str, pickled: bytes) -> int | tuple[int, ...] | Fraction | None | UnreadableVideoError:
        """Carry out a request."""
        try:
            with failures_of(path):
                request: Any = pickle.loads(pickled)
                if callable(request):
                    self.reader = request()
                    return len(self.reader)
                if isinstance(request, str):
                    return getattr(self.reader, "rate", None)
                return self._read(request)
        except UnreadableVideoError as error:
            return error

    def _read(self, indices: np.ndarray) -> tuple[int, ...]:
        if self.size > LARGE_BYTES:
            self.frames.release_beyond(LARGE_BYTES)
        with new_frames.allocated_by(self.frames.allocate):
            frames = self.reader.read(indices)
        self.size = frames.nbytes
        return self.frames.store(frames)


def _end_with(lifeline: int) -> None:
    """Make the kernel end this process when the other end of a pipe is closed.

    A decoder that never returns to Python would not notice the death of the parent process. On Linux, an unhandled
    SIGIO kills a process.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        sys.exit()
