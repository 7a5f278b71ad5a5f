"""Video files, whichever library decodes them."""

import os
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from datasets.annotations import resolve_video_path
from datasets.readers.errors import UnreadableVideoError, type_and_text

DECODERS = ("pyav", "decord")


class VideoFile:
    """A video file, decoded in the calling thread: frame i is the one that a player shows as its i-th.

    Pictures are upright as they are to be shown, whatever way the camera was held. `reader` is the library that
    decodes where it gives these frames: "decord" hands other files over to PyAV.
    """

    def __init__(self, path: str, reader: str = "pyav"):
        """Open the file (a path without suffix is completed by the file that is there)."""
        self.path = resolve_video_path(path)
        if not os.path.isfile(self.path):
            raise UnreadableVideoError(path, "there is no such file")
        if os.path.getsize(self.path) == 0:
            raise UnreadableVideoError(path, "the file is empty")
        try:
            self._decoder = _open_decoder(self.path, reader)
        except Exception as error:
            raise UnreadableVideoError(path, f"it is not a video, or damaged ({type_and_text(error)})") from error

    def __len__(self) -> int:
        return len(self._decoder)

    @property
    def rate(self) -> Fraction | None:
        """Frames per second on average; None where the file does not tell."""
        return self._decoder.rate

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode the frames (T,) -> uint8 (T, H, W, 3); raises `UnreadableVideoError`."""
        unique, places = np.unique(np.asarray(indices), return_inverse=True)
        if unique[0] < 0 or unique[-1] >= len(self):
            raise UnreadableVideoError(
                self.path, f"frames do not decode (there are {len(self)}, not {unique[-1] + 1})"
            )
        try:
            frames = self._decoder.decode(unique)
        except Exception as error:
            raise UnreadableVideoError(self.path, f"frames do not decode ({type_and_text(error)})") from error
        return frames if np.array_equal(unique, indices) else frames[places]


def _open_decoder(path: str, reader: str):
    """Open a file by one of `DECODERS`, imported at its first use, since either takes its time."""
    if reader == "decord":
        from datasets.readers.decord_decoder import open_decord

        return open_decord(path)
    from datasets.readers.pyav_decoder import PyavDecoder

    return PyavDecoder(path)
