"""Reading frames: a path and frame numbers in, uint8 pictures out.

All readers have the same two members (`FrameReader`): `len(reader)` is the number of frames and `reader.read(indices)`
returns the asked frames as a uint8 numpy array (T, H, W, 3), RGB. Indices may repeat and come in any order; each frame
is decoded once. Whatever goes wrong is one exception, `UnreadableVideoError`, so that a data set can decide what to do
with it. `Guard` runs any reader in a process of its own, which may hang or crash; `open_reader` opens one either way.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np

from datasets.readers.errors import UnreadableVideoError, failures_of
from datasets.readers.guard import Guard, GuardedReader
from datasets.readers.images import FrameFolder, ImageFile
from datasets.readers.videos import DECODERS, VideoFile

__all__ = [
    "DECODERS",
    "FrameFolder",
    "FrameReader",
    "Guard",
    "GuardedReader",
    "ImageFile",
    "UnreadableVideoError",
    "VideoFile",
    "failures_of",
    "frame_rate",
    "open_reader",
]


class FrameReader(Protocol):
    """What every reader gives: the number of frames, and the frames themselves."""

    def __len__(self) -> int:
        """Give the number of frames."""
        ...

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode frames (T,) -> uint8 (T, H, W, 3); raises `UnreadableVideoError`."""
        ...


def frame_rate(reader: FrameReader) -> Fraction | None:
    """Frames per second of an open video; None for a folder of frames, or where the file does not tell."""
    return getattr(reader, "rate", None)


class _OpenReader:
    """A reader of this process, every failure of which is an `UnreadableVideoError`."""

    def __init__(self, path: str, make_reader: Callable[[], FrameReader]):
        self.path = path
        with failures_of(path):
            self._reader = make_reader()

    def __len__(self) -> int:
        with failures_of(self.path):
            return len(self._reader)

    @property
    def rate(self) -> Fraction | None:
        with failures_of(self.path):
            return frame_rate(self._reader)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        with failures_of(self.path):
            return self._reader.read(indices)


def open_reader(path: str, make_reader: Callable[[], FrameReader], guard: Guard | None) -> FrameReader:
    """Open a reader in a guard's process, or where there is none in this one.

    Args:
        path: names the file or folder in errors.
        make_reader: opens it; with a guard it must be one that can be pickled.
        guard: whose process reads; None for this process.

    Raises:
        UnreadableVideoError: it does not open, whatever was raised; the reader's methods raise it alike.
    """
    return _OpenReader(path, make_reader) if guard is None else guard.open(path, make_reader)
