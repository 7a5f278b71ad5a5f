"""Reading frames: a path and frame numbers in, uint8 pictures out.

All readers have the same two members (`FrameReader`): `len(reader)` is the number of frames and `reader.read(indices)`
returns the asked frames as a uint8 numpy array (T, H, W, 3), RGB. Indices may repeat and come in any order; each frame
is decoded once. Whatever goes wrong is one exception, `UnreadableVideoError`, so that a data set can decide what to do
with it. `Guard` runs any reader in a process of its own, which may hang or crash.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from datasets.readers.errors import UnreadableVideoError
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
]


class FrameReader(Protocol):
    """What every reader gives: the number of frames, and the frames themselves."""

    def __len__(self) -> int:
        """Give the number of frames."""

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Decode frames (T,) -> uint8 (T, H, W, 3); raises `UnreadableVideoError`."""
