"""Decode with torchcodec, and the FFmpeg of the machine, the files for which the frames are those a player shows."""

import importlib
import os
from typing import Any

import numpy as np

from datasets.readers.errors import one_line
from datasets.readers.hand_over import CheckedDecoder

try:
    torchcodec: Any = importlib.import_module("torchcodec")
    decoders: Any = importlib.import_module("torchcodec.decoders")
except ModuleNotFoundError as error:
    raise ImportError(f"{one_line(error)}; pip install torchcodec") from error
except (ImportError, OSError, RuntimeError):  # versions before 0.17 load FFmpeg when they are imported
    torchcodec = None
if getattr(torchcodec, "ffmpeg_major_version", None) is None:
    raise ImportError(
        "torchcodec does not find the libraries of FFmpeg, or was made for another PyTorch; apt install ffmpeg, or "
        "conda install ffmpeg (docs/data.md)"
    )


def open_decoder(path: str) -> CheckedDecoder:
    """Open a file with torchcodec, or with PyAV; raise any exception if it is not a video, or damaged."""
    return CheckedDecoder(path, "torchcodec", TorchcodecDecoder)


class TorchcodecDecoder:
    """Decoder of one file.

    It uses one thread, because the dataloader workers provide the parallelism.
    """

    def __init__(self, path: str):
        """Open the file; raise one of several errors of torchcodec if it is not a video."""
        # FFmpeg interprets text before a colon as a protocol, so the path must be absolute.
        self._decoder = decoders.VideoDecoder(
            os.path.abspath(path), dimension_order="NHWC", device="cpu", seek_mode="exact"
        )

    def __len__(self) -> int:
        return len(self._decoder)

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Decode sorted, distinct frames (T,) -> uint8 (T, H, W, 3); raise an error of torchcodec if that fails."""
        return self._decoder.get_frames_at(indices.tolist()).data.numpy()
