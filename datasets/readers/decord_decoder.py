"""Decoding by decord (the package decord2), of the files of which it gives the frames that a player shows."""

import importlib
import logging
import os
import sys
from fractions import Fraction

import numpy as np

from datasets.readers.errors import type_and_text
from datasets.readers.pyav_decoder import PyavDecoder

_logger = logging.getLogger(__name__)
_told: set[str] = set()
"""Files that have been handed over and named in the log."""


def _import_decord():
    """Import decord with the CUDA libraries that pip has installed out of its sight.

    It would load all of them, for all to see, and one of them, libnvblas, would answer PyTorch's matrix products if
    PyTorch is imported later: by a crash. Decoding is done on the processor here.
    """
    hidden = sys.modules.get("nvidia")
    sys.modules["nvidia"] = None  # pyright: ignore[reportArgumentType]  (Python: an import then fails)
    try:
        return importlib.import_module("decord")
    finally:
        del sys.modules["nvidia"]
        if hidden is not None:
            sys.modules["nvidia"] = hidden


decord = _import_decord()
# Every failure is raised and told by us; FFmpeg's own lines would only repeat it for each worker and each packet.
decord.logging.set_level(decord.logging.QUIET)


def open_decord(path: str) -> "DecordDecoder | PyavDecoder":
    """Open a file by decord, or by PyAV where decord's frame numbers cannot be trusted; the log names each such file.

    They can where every packet of the file is a frame and tells when it is shown, groups of pictures are closed, both
    libraries count as many frames, and the first one is the same picture.

    Raises:
        Exception: it is not a video, or damaged.
    """
    exact = PyavDecoder(path)
    try:
        by_decord, why = DecordDecoder(path), ""
        if not exact.is_plain():
            why = "its packets do not tell decord which frames are shown"
        elif len(by_decord) != len(exact):
            why = f"it counts {len(by_decord)} frames instead of {len(exact)}"
        elif not np.array_equal(by_decord.decode(np.array([0])), exact.decode(np.array([0]))):
            why = "it shows another first picture"
    except Exception as error:  # noqa: BLE001, a file that any fault of decord's keeps it from is read by PyAV
        why = type_and_text(error)
    if not why:
        by_decord.rate = exact.rate
        return by_decord
    if path not in _told:
        _told.add(path)
        _logger.warning("%s is read by PyAV instead of decord: %s", path, why)
    return exact


class DecordDecoder:
    """The decoder of one file.

    One decoding thread: loader workers are the parallelism, and more threads than cores only wait for each other.
    """

    def __init__(self, path: str):
        """Open the file; raises an error of decord's, of several types, where it is no video."""
        # FFmpeg takes what stands before a colon for a protocol
        self.rate: Fraction | None = None
        self._reader = decord.VideoReader(os.path.abspath(path), num_threads=1)

    def __len__(self) -> int:
        return len(self._reader)

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Decode sorted, distinct frames (T,) -> uint8 (T, H, W, 3); raises an error of decord's."""
        # Frames between the wanted ones have to be decoded too, whereas decord, asked for frames apart, seeks again at
        # every key frame: a dense enough stretch is faster read through.
        stretch = np.arange(indices[0], indices[-1] + 1)
        if len(indices) < len(stretch) <= 2 * len(indices):
            return self._decode(stretch)[indices - indices[0]]
        return self._decode(indices)

    def _decode(self, indices: np.ndarray) -> np.ndarray:
        """Decode frames around a fault of decord's with narrow pictures.

        It takes the bytes of a row, padded to a multiple of 64, divided by the width for the number of channels, and
        so for widths such as 32, 48, 72 or 96 finds more than 3 and cannot copy them into a batch. The bytes of single
        frames are right: rows that end in padding.
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
