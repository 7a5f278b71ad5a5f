"""Reader of video files, independent of the decoding library."""

import importlib
import os
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from datasets.annotations import resolve_video_path
from datasets.readers.errors import UnreadableVideoError, type_and_text

MODULES = {name: f"datasets.readers.{name}_decoder" for name in ("pyav", "decord", "torchcodec")}
"""Modules of the decoding libraries, imported at the first use because that is slow; each has `open_decoder`."""
DECODERS = tuple(MODULES)


def require_reader(reader: str) -> None:
    """Import a decoding library, one of `DECODERS`; raise a ValueError that names the remedy if that fails."""
    try:
        importlib.import_module(MODULES[reader])
    except (ImportError, OSError, RuntimeError) as error:  # the last two where a shared library is missing
        raise ValueError(f"--reader {reader} cannot be used: {error}; without the flag, PyAV decodes") from error


class VideoFile:
    """A video file, decoded in the calling thread; frame i is the i-th frame that a player shows, upright.

    Args:
        path: File; a missing suffix is completed from the existing file.
        reader: Library that decodes, one of `DECODERS`; files that it reads incorrectly are read by PyAV.

    Raises:
        UnreadableVideoError: The file cannot be opened.
    """

    def __init__(self, path: str, reader: str = "pyav"):
        self.path = resolve_video_path(path)
        if not os.path.isfile(self.path):
            raise UnreadableVideoError(path, "there is no such file")
        if os.path.getsize(self.path) == 0:
            raise UnreadableVideoError(path, "the file is empty")
        try:
            self._decoder = importlib.import_module(MODULES[reader]).open_decoder(self.path)
        except Exception as error:
            raise UnreadableVideoError(path, f"it is not a video, or damaged ({type_and_text(error)})") from error

    def __len__(self) -> int:
        return len(self._decoder)

    @property
    def rate(self) -> Fraction | None:
        """Average frames per second; None if unknown."""
        return self._decoder.rate

    @property
    def times(self) -> np.ndarray | None:
        """When each frame is shown, in seconds after the first one: (N,) float64; None if the file does not say."""
        return self._decoder.times

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode frames (T,) -> uint8 (T, H, W, 3); raise `UnreadableVideoError` if that fails."""
        unique, places = np.unique(np.asarray(indices), return_inverse=True)
        if unique[0] < 0 or unique[-1] >= len(self):
            raise UnreadableVideoError(self.path, f"frame {unique[-1]} does not exist (the video has {len(self)})")
        try:
            frames = self._decoder.decode(unique)
        except Exception as error:
            raise UnreadableVideoError(self.path, f"frames cannot be decoded ({type_and_text(error)})") from error
        return frames if np.array_equal(unique, indices) else frames[places]
