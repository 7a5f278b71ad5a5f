"""Let another library than PyAV decode a file, provided that it returns the same frames as a player shows."""

import logging
from collections.abc import Callable
from fractions import Fraction
from typing import Protocol

import numpy as np

from datasets.readers.errors import type_and_text
from datasets.readers.pyav_decoder import PyavDecoder

_logger = logging.getLogger(__name__)
_logged: set[str] = set()
"""Files read by PyAV instead that have already been logged."""


class LibraryDecoder(Protocol):
    """A file opened by a library."""

    def __len__(self) -> int: ...

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Decode sorted, distinct frames (T,) -> uint8 (T, H, W, 3), or raise any exception."""
        ...


class CheckedDecoder:
    """Decoder of one file by a library, or by PyAV (and a log message) if its frame numbers cannot be trusted.

    They are trusted if each packet of the file is a frame with a presentation time, groups of pictures are closed,
    both libraries count the same number of frames, the first frame is the same image, and nothing fails.

    Args:
        path: The file.
        library: Name of the library, for the log.
        open_file: Opens the file with the library, or raises any exception.

    Raises:
        Exception: The file is not a video, or damaged.
    """

    def __init__(self, path: str, library: str, open_file: Callable[[str], LibraryDecoder]):
        self._path, self._library, self._exact = path, library, PyavDecoder(path)
        self._decoder: LibraryDecoder = self._exact
        try:
            decoder = open_file(path)
            why = self._misfit(decoder)
        except Exception as error:  # noqa: BLE001, if the library fails in any way, PyAV reads the file
            why = type_and_text(error)
        if why:
            self._hand_over(why)
        else:
            self._decoder = decoder

    def __len__(self) -> int:
        return len(self._exact)

    @property
    def rate(self) -> Fraction | None:
        """Average frames per second; None if unknown."""
        return self._exact.rate

    @property
    def times(self) -> np.ndarray | None:
        """When each frame is shown, in seconds after the first one: (N,) float64; None if the file does not say."""
        return self._exact.times

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Decode sorted, distinct frames (T,) -> uint8 (T, H, W, 3), or raise av.FFmpegError or EOFError."""
        if self._decoder is not self._exact:
            try:
                return self._decoder.decode(indices)
            except Exception as error:  # noqa: BLE001, as above
                self._hand_over(type_and_text(error))
        return self._exact.decode(indices)

    def _misfit(self, decoder: LibraryDecoder) -> str:
        """Return why the library's frame numbers cannot be trusted; empty if they can."""
        if not self._exact.is_plain():
            return "its packets do not determine which frames are shown"
        if len(decoder) != len(self):
            return f"{self._library} counts {len(decoder)} frames instead of {len(self)}"
        first = np.array([0])
        return "" if np.array_equal(decoder.decode(first), self._exact.decode(first)) else "its first frame differs"

    def _hand_over(self, why: str) -> None:
        self._decoder = self._exact
        if self._path not in _logged:
            _logged.add(self._path)
            _logger.warning("%s is read by PyAV instead of %s: %s", self._path, self._library, why)
