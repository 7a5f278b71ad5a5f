"""Decoding by decord (the package decord2), the default."""

import importlib
import sys

import numpy as np


def _import_decord():
    """Import decord with the CUDA libraries that pip has installed out of its sight.

    It would load all of them, for all to see, and one of them, libnvblas, would answer PyTorch's matrix products if
    PyTorch is imported later: by a crash. Decoding is done on the processor here.
    """
    hidden = sys.modules.get("nvidia")
    sys.modules["nvidia"] = None
    try:
        return importlib.import_module("decord")
    finally:
        del sys.modules["nvidia"]
        if hidden is not None:
            sys.modules["nvidia"] = hidden


decord = _import_decord()
# Every failure is raised and told by us; FFmpeg's own lines would only repeat it for each worker and each packet.
decord.logging.set_level(decord.logging.QUIET)


class DecordDecoder:
    """The decoder of one file.

    One decoding thread: loader workers are the parallelism, and more threads than cores only wait for each other.
    """

    errors = (RuntimeError, AssertionError, IndexError, decord.DECORDError)

    def __init__(self, path: str):
        """Open the file; raises one of `errors` where it is no video."""
        self._reader = decord.VideoReader(path, num_threads=1)

    def __len__(self) -> int:
        """Give the number of frames."""
        return len(self._reader)

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Decode sorted, distinct frames (T,) -> uint8 (T, H, W, 3); raises one of `errors`."""
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
