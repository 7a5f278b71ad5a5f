"""Decode with decord (package decord2) the files for which it returns the same frames as a player shows."""

import ctypes
import importlib
import os
import sys

import numpy as np

from datasets.readers.hand_over import CheckedDecoder


def _import_decord():
    """Import decord while hiding the CUDA libraries installed by pip, and its own symbols from other libraries.

    Decord would load all of them into the global namespace. One of them, libnvblas, would then intercept the matrix
    products of PyTorch, if that is imported later, and crash; decoding runs on the CPU here and does not need them.
    Decord's own copy of dav1d would crash torchcodec, whose FFmpeg would call it instead of the one it was made for.
    """
    hidden, visible = sys.modules.get("nvidia"), ctypes.RTLD_GLOBAL
    sys.modules["nvidia"] = None  # pyright: ignore[reportArgumentType]  (an import then fails)
    ctypes.RTLD_GLOBAL = ctypes.RTLD_LOCAL  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return importlib.import_module("decord")
    finally:
        ctypes.RTLD_GLOBAL = visible  # pyright: ignore[reportAttributeAccessIssue]
        del sys.modules["nvidia"]
        if hidden is not None:
            sys.modules["nvidia"] = hidden


decord = _import_decord()
# All failures raise exceptions; FFmpeg's log lines would only repeat them for every worker and every packet.
decord.logging.set_level(decord.logging.QUIET)


def open_decoder(path: str) -> CheckedDecoder:
    """Open a file with decord, or with PyAV; raise any exception if it is not a video, or damaged."""
    return CheckedDecoder(path, "decord", DecordDecoder)


class DecordDecoder:
    """Decoder of one file.

    It uses one thread, because the dataloader workers provide the parallelism.
    """

    def __init__(self, path: str):
        """Open the file; raise one of several errors of decord if it is not a video."""
        # FFmpeg interprets text before a colon as a protocol, so the path must be absolute.
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
