"""Frames in memory that two processes share."""

import math
import mmap
import os
import tempfile
from collections.abc import Sequence

import numpy as np


class SharedFrames:
    """Frames in a file that two processes map into their memory.

    Args:
        file: Descriptor of a file made by `anonymous_file`, in this process or another.
    """

    def __init__(self, file: int):
        self.file = file
        self._mapped: mmap.mmap | None = None
        self._allocated: np.ndarray | None = None

    def allocate(self, shape: Sequence[int]) -> np.ndarray:
        """Return an array for frames (T, H, W, 3), which overwrites those stored last."""
        size = math.prod(shape)
        if os.fstat(self.file).st_size < size:
            os.ftruncate(self.file, size)
        self._allocated = self.view(shape)
        return self._allocated

    def store(self, frames: np.ndarray) -> tuple[int, ...]:
        """Write frames, unless they are the array that `allocate` returned last; return their shape, for `view`."""
        if frames is not self._allocated:
            np.copyto(self.allocate(frames.shape), frames)
        return frames.shape

    def view(self, shape: Sequence[int]) -> np.ndarray:
        """View the frames stored last; the next `store` overwrites them."""
        size = math.prod(shape)
        if self._mapped is None or len(self._mapped) < size:
            self._mapped = mmap.mmap(self.file, 0)
        return np.frombuffer(self._mapped, dtype=np.uint8, count=size).reshape(shape)

    def release_beyond(self, size: int) -> None:
        """Return the memory beyond the first `size` bytes (whole pages) to the system; those frames become black.

        The file keeps its length, so arrays that still view it remain valid.
        """
        if hasattr(mmap, "MADV_REMOVE") and self._mapped is not None and len(self._mapped) > size:
            self._mapped.madvise(mmap.MADV_REMOVE, size)


def anonymous_file() -> int:
    """Create a file without a name, in memory if the system supports it (not limited by the size of /dev/shm)."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
