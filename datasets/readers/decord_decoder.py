"""Decode with decord (package decord2) the files for which it returns the same frames as a player shows."""

import importlib
import logging
import os
import sys
from fractions import Fraction

import numpy as np

from datasets.readers.errors import type_and_text
from datasets.readers.pyav_decoder import PyavDecoder

_logger = logging.getLogger(__name__)
_logged: set[str] = set()
"""Files read by PyAV instead that have already been logged."""


def _import_decord():
    """Import decord while hiding the CUDA libraries installed by pip.

    Decord would load all of them into the global namespace. One of them, libnvblas, would then intercept the matrix
    products of PyTorch, if that is imported later, and crash. Decoding runs on the CPU here and does not need them.
    """
    hidden = sys.modules.get("nvidia")
    sys.modules["nvidia"] = None  # pyright: ignore[reportArgumentType]  (an import then fails)
    try:
        return importlib.import_module("decord")
    finally:
        del sys.modules["nvidia"]
        if hidden is not None:
            sys.modules["nvidia"] = hidden


decord = _import_decord()
# All failures raise exceptions; FFmpeg's log lines would only repeat them for every worker and every packet.
decord.logging.set_level(decord.logging.QUIET)


def open_decord(path: str) -> "DecordDecoder | PyavDecoder":
    """Open a file with decord, or with PyAV (and a log message) if decord's frame numbers cannot be trusted.

    They are trusted if each packet of the file is a frame with a presentation time, groups of pictures are closed,
    both libraries count the same number of frames, and the first frame is the same image.

    Raises:
        Exception: The file is not a video, or damaged.
    """
    exact = PyavDecoder(path)
    try:
        by_decord, why = DecordDecoder(path), ""
        if not exact.is_plain():
            why = "its packets do not determine which frames are shown"
        elif len(by_decord) != len(exact):
            why = f"decord counts {len(by_decord)} frames instead of {len(exact)}"
        elif not np.array_equal(by_decord.decode(np.array([0])), exact.decode(np.array([0]))):
            why = "its first frame differs"
    except Exception as error:  # noqa: BLE001, if decord fails in any way, PyAV reads the file
        why = type_and_text(error)
    if not why:
        by_decord.rate, by_decord.times = exact.rate, exact.times
        return by_decord
    if path not in _logged:
        _logged.add(path)
        _logger.warning("%s is read by PyAV instead of decord: %s", path, why)
    return exact


class DecordDecoder:
    """Decoder of one file.

    It uses one thread, because the dataloader workers provide the parallelism.
    """

    def __init__(self, path: str):
        """Open the file; raise one of several errors of decord if it is not a video."""
        # FFmpeg interprets text before a colon as a protocol, so the path must be absolute.
        self.rate: Fraction | None = None
        self.times: np.ndarray | None = None
        self._reader = decord.VideoReader(os.path.abspath(path), num_threads=1)

    def __len__(self) -> int:
        return len(self._reader)

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Decode sorted, distinct frames (T,) -> uint8 (T, H, W, 3); raise an error of decord if that fails."""
        # Frames in between have to be decoded anyway, but for separate frames decord seeks again at every key frame.
        # A sufficiently dense range is faster to read as a whole.
        whole_range = np.arange(indices[0], indices[-1] + 1)
        if len(indices) < len(whole_range) <= 2 * len(indices):
            return self._decode(whole_range)[indices - indices[0]]
        return self._decode(indices)

    def _decode(self, indices: np.ndarray) -> np.ndarray:
        """Decode frames, with a workaround for a bug of decord with narrow videos.

        Decord computes the number of channels as the bytes of a row, padded to a multiple of 64, divided by the width.
        For widths such as 32, 48, 72 or 96 that is more than 3, and building a batch fails. The bytes of single
        frames are correct: padded rows.
        """
        try:
            return self._reader.get_batch(indices).asnumpy()
        except decord.DECORDError:
            first = self._reader[int(indices[0])].asnumpy()
            height, width, channels = first.shape
            if channels == 3:
                raise
            frames = [first, *(self._reader[int(i)].asnumpy() for i in indices[1:])]
        rows = np.stack(frames).reshape(len(frames), height, width * channels)
        return rows[:, :, : 3 * width].reshape(len(frames), height, width, 3)
