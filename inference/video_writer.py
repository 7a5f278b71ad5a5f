"""Read all frames of a video, and write pictures as an H.264 file."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from common.files import atomic_write
from datasets.readers import FrameReader

NARROWEST, WIDEST = 480, 1280  # pixels; other widths are resized, so that text and curve can be read
FRAMES_PER_READ = 32


def canvas_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Return width and height of the copy of a video with frames of (height, width), even numbers as H.264 needs."""
    height, width = shape
    scale = min(max(width, NARROWEST), WIDEST) / width
    return 2 * round(width * scale / 2), max(2, 2 * round(height * scale / 2))


def every_frame(reader: FrameReader) -> Iterator[np.ndarray]:
    """Yield all frames in order, uint8 (H, W, 3), in memory that does not grow with the length of the video."""
    for start in range(0, len(reader), FRAMES_PER_READ):
        yield from reader.read(range(start, min(start + FRAMES_PER_READ, len(reader))))


def write_h264(target: Path, pictures: Iterable[np.ndarray], size: tuple[int, int], rate: Fraction | int) -> None:
    """Write an .mp4 file atomically.

    Args:
        target: Path of the file.
        pictures: Pictures, uint8 (height, width, 3).
        size: Width and height, both even.
        rate: Pictures per second.
    """
    with atomic_write(target) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
