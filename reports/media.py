"""Frames of tested videos as data URIs, small enough for dozens of them on a page.

The tested dataset reads the frames, those of a single view in the middle of the video (`plan.sample`).
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
    """A picture of a video as a data URI, or the reason why there is none."""

    uri: str | None
    problem: str | None = None


class Pictures:
    """Pictures of videos by their line in the list.

    Args:
        dataset: A `ClipDataset`, or None if the videos are not available.
        problem: The reason why they are not available.
    """

    def __init__(self, dataset, problem: str | None = None):
        self._dataset, self._problem = dataset, problem
        self._records = {} if dataset is None else {record.line: record for record in dataset.listed}

    def still(self, line: int) -> Picture:
        """Return the middle frame of the clip as WebP."""
        return self._picture(line, still=True)

    def clip(self, line: int) -> Picture:
        """Return the frames of the clip as animated WebP."""
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
        except Exception as error:  # the page shows the error instead of the picture
            _logger.debug("no picture of %s", record.path, exc_info=True)
            return Picture(None, str(error))


def animated_webp(frames: np.ndarray) -> str:
    """Encode frames uint8 (T, H, W, 3) as a WebP data URI; a single frame gives a still image."""
    height, width = frames.shape[1:3]
    size = (max(1, round(width * HEIGHT / height)), HEIGHT)
    first, *rest = (Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in frames)
    animation = {"save_all": True, "append_images": rest, "duration": FRAME_MILLISECONDS, "loop": 0} if rest else {}
    return webp(first, **animation)


def webp(picture: Image.Image, **options) -> str:
    """Encode a picture as a WebP data URI; `options` are those of Pillow."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, **options)
    return data_uri(buffer.getvalue(), "image/webp")


def data_uri(content: bytes, media_type: str) -> str:
    """Encode content as a data URI, so that a page needs no other files."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
