"""From the frames of a video to a copy of it, an H.264 file."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from common.files import atomic_write
from datasets.readers import FrameReader

NARROWEST, WIDEST = 480, 1280  # pixels; what is smaller or larger is resized, so that text and curve can be read
FRAMES_PER_READ = 32


def canvas_size(shape: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height of the copy of a video of `shape` (height, width), even as H.264 wants them."""
    height, width = shape
    scale = min(max(width, NARROWEST), WIDEST) / width
    return 2 * round(width * scale / 2), max(2, 2 * round(height * scale / 2))


def every_frame(reader: FrameReader) -> Iterator[np.ndarray]:
    """Yield all frames in order, each uint8 (H, W, 3), in memory that the length does not change."""
    for start in range(0, len(reader), FRAMES_PER_READ):
        yield from reader.read(range(start, min(start + FRAMES_PER_READ, len(reader))))


def write_h264(target: Path, pictures: Iterable[np.ndarray], size: tuple[int, int], rate: Fraction | int) -> None:
    """Write an .mp4 file, which appears when it is whole.

    Args:
        target: the file.
        pictures: uint8 (height, width, 3).
        size: width and height, both even.
        rate: pictures a second.
    """
    # Written through an open file: only a whole one takes the target's name.
    with atomic_write(target) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
