"""Video files, whichever library decodes them."""

import os
from collections.abc import Sequence

import numpy as np

from datasets.annotations import resolve_video_path
from datasets.readers.errors import UnreadableVideoError, one_line

DECODERS = ("decord", "pyav")


class VideoFile:
    """A video file, decoded in the calling thread by the library that `reader` names.

    Pictures are upright as they are to be shown, whatever way the camera was held.
    """

    def __init__(self, path: str, reader: str = "decord"):
        """Open the file (a path without suffix is completed by the file that is there)."""
        self.path = resolve_video_path(path)
        if not os.path.isfile(self.path):
            raise UnreadableVideoError(path, "there is no such file")
        if os.path.getsize(self.path) == 0:
            raise UnreadableVideoError(path, "the file is empty")
        decoder = decoder_class(reader)
        try:
            self._decoder = decoder(self.path)
        except decoder.errors as error:
            raise UnreadableVideoError(path, f"it is not a video, or damaged ({one_line(error)})") from error

    def __len__(self) -> int:
        """Give the number of frames."""
        return len(self._decoder)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Decode the frames (T,) -> uint8 (T, H, W, 3); raises `UnreadableVideoError`."""
        unique, places = np.unique(np.asarray(indices), return_inverse=True)
        if unique[0] < 0 or unique[-1] >= len(self):
            raise UnreadableVideoError(
                self.path, f"frames do not decode (there are {len(self)}, not {unique[-1] + 1})"
            )
        try:
            frames = self._decoder.decode(unique)
        except self._decoder.errors as error:
            raise UnreadableVideoError(self.path, f"frames do not decode ({one_line(error)})") from error
        return frames if np.array_equal(unique, indices) else frames[places]


def decoder_class(name: str) -> type:
    """Return the class that decodes by one of `DECODERS`, imported at its first use, since either takes its time."""
    if name == "decord":
        from datasets.readers.decord_decoder import DecordDecoder

        return DecordDecoder
    from datasets.readers.pyav_decoder import PyavDecoder

    return PyavDecoder
