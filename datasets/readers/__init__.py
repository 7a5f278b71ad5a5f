"""Readers: return frames of videos, frame folders and images by number.

All readers implement `FrameReader`: `len(reader)` is the number of frames, and `reader.read(indices)` returns the
requested frames as a uint8 numpy array (T, H, W, 3), RGB. Indices may repeat and have any order; each frame is decoded
once. All failures raise `UnreadableVideoError`, which the dataset handles. `Guard` runs a reader in a separate process
that may hang or crash; `open_reader` opens a reader with or without a guard.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Protocol

import numpy as np

from datasets.readers.errors import UnreadableVideoError, failures_of
from datasets.readers.guard import Guard, GuardedReader
from datasets.readers.images import FrameFolder, ImageFile
from datasets.readers.part import PartReader, open_part
from datasets.readers.videos import DECODERS, VideoFile, require_reader

__all__ = [
    "DECODERS",
    "FrameFolder",
    "FrameReader",
    "Guard",
    "GuardedReader",
    "ImageFile",
    "PartReader",
    "UnreadableVideoError",
    "VideoFile",
    "failures_of",
    "frame_rate",
    "open_part",
    "open_reader",
    "require_reader",
]


class FrameReader(Protocol):
    """Interface of readers: the number of frames, and the frames."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode frames (T,) -> uint8 (T, H, W, 3); raise `UnreadableVideoError` if that fails."""
        ...


def frame_rate(reader: FrameReader) -> Fraction | None:
    """Return the frames per second of an open video; None for a folder of frames, or if the file does not say."""
    return getattr(reader, "rate", None)


class _OpenReader:
    """A reader in this process that turns all exceptions into `UnreadableVideoError`."""

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
    """Open a reader in the process of a guard, or in this process.

    Args:
        path: File or folder, for messages.
        make_reader: Opens the reader; must be picklable with a guard.
        guard: Guard whose process reads; None for this process.

    Raises:
        UnreadableVideoError: The file cannot be opened. The reader's methods raise the same exception.
    """
    return _OpenReader(path, make_reader) if guard is None else guard.open(path, make_reader)
