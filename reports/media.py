"""Frames of tested videos as data URIs, small enough that a page holds dozens of them.

Frames are read through the data set that was tested (`open_record`, and `plan.sample`: those in the middle of the
video, as one view of the model sees them).
"""

import base64
import io
import logging
from typing import NamedTuple

import numpy as np
from PIL import Image

_logger = logging.getLogger(__name__)

HEIGHT = 120  # pixels
FRAME_MILLISECONDS = 150
QUALITY = 70


class Picture(NamedTuple):
    """What a page shows of a video: a data URI, or why there is none."""

    uri: str | None
    problem: str | None = None


class Pictures:
    """Pictures of videos by their line in the list.

    Args:
        dataset: a `ClipDataset`, or None where the videos are out of reach.
        problem: why there is none.
    """

    def __init__(self, dataset, problem: str | None = None):
        self._dataset, self._problem = dataset, problem
        self._records = {} if dataset is None else {record.line: record for record in dataset.records}

    def still(self, line: int) -> Picture:
        """The middle frame of the clip, as WebP."""
        return self._picture(line, still=True)

    def clip(self, line: int) -> Picture:
        """The frames of the clip one after another, as animated WebP."""
        return self._picture(line, still=False)

    def _picture(self, line: int, still: bool) -> Picture:
        record = self._records.get(line)
        if record is None:
            return Picture(None, self._problem or f"the list has no line {line}")
        try:
            reader = self._dataset.open_record(record)
            indices = self._dataset.plan.sample(len(reader), mode="test", segment=0, num_segments=1)
            frames = reader.read(indices[len(indices) // 2 :][:1] if still else indices)
            return Picture(animated_webp(frames))
        except Exception as error:  # a video that cannot be shown is told in its place, and the page goes on
            _logger.debug("no picture of %s", record.path, exc_info=True)
            return Picture(None, str(error))


def animated_webp(frames: np.ndarray) -> str:
    """Frames uint8 (T, H, W, 3) as a data URI; a single one is a still picture."""
    height, width = frames.shape[1:3]
    size = (max(1, round(width * HEIGHT / height)), HEIGHT)
    first, *rest = (Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames)
    buffer = io.BytesIO()
    animation = {"save_all": True, "append_images": rest, "duration": FRAME_MILLISECONDS, "loop": 0} if rest else {}
    first.save(buffer, "WEBP", quality=QUALITY, **animation)
    return data_uri(buffer.getvalue(), "image/webp")


def data_uri(content: bytes, media_type: str) -> str:
    """The content itself as an address, so that a page needs no other file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
