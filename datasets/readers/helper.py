"""The process that reads for a `Guard`: what it runs, and how it is started."""

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
from datasets.readers.errors import UnreadableVideoError, failures_of
from datasets.readers.shared_frames import SharedFrames

# The decoder, which takes its time, is imported before the first file is waited for.
ASK_RATE = "rate"

_PROGRAM = """
import sys
sys.path[:] = {path}
import datasets.readers.pyav_decoder
from datasets.readers.helper import serve
serve{descriptors}
"""


def start_helper(connection: int, memory: int, lifeline: int) -> subprocess.Popen:
    """Start a process that runs `serve` on these three descriptors, which it inherits."""
    descriptors = (connection, memory, lifeline)
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _PROGRAM.format(path=ascii(_import_path()), descriptors=descriptors)],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
    )


def _import_path() -> list[str]:
    """Give this process's import path, the current folder last unless this project lies in it.

    It may be a folder of downloads, where a file called socket.py must not be taken for Python's.
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
    """Answer requests, in the helper, until the other side is gone.

    A request is a path and, pickled, what to do. A callable opens a reader and is answered by its length; frame
    numbers are read from the reader opened last and answered by the shape of the frames, which lie in shared memory.
    `ASK_RATE` is answered by that reader's frames per second.
    An `UnreadableVideoError` is an answer too.
    """
    _end_with(lifeline)
    keep_freed_memory()
    requests = Connection(connection)
    # launchers and schedulers signal every process of a job; this one ends with the one it reads for
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
    """The reader that is open, and the memory that its frames go to."""

    def __init__(self, frames: SharedFrames):
        self.frames = frames
        self.reader: Any = None
        self.size = 0  # in bytes, of the frames read last

    def answer(self, path: str, pickled: bytes) -> int | tuple[int, ...] | Fraction | None | UnreadableVideoError:
        """Do what is requested."""
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
        frames = self.reader.read(indices)
        self.size = frames.nbytes
        return self.frames.store(frames)


def _end_with(lifeline: int) -> None:
    """Have the kernel end this process when nobody holds the other end of a pipe any more.

    A decoder that never returns to Python would not see that the process it reads for is dead. On Linux SIGIO kills
    whoever does not handle it.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        sys.exit()
