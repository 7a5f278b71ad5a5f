"""Reader of a segment of a video: frame 0 is the first frame of the segment."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from datasets.readers.errors import UnreadableVideoError
from datasets.segments import Segment

OVERHANG = 0.5
"""Seconds that a segment may reach beyond the last frame: players round durations, or show that of the sound."""


def open_part(opener: Callable[[], Any], segment: Segment | None) -> Callable[[], Any]:
    """Return a picklable function that opens a segment of what `opener` opens; without a segment, `opener` itself."""
    return opener if segment is None else partial(_open_part, opener, segment)


def _open_part(opener: Callable[[], Any], segment: Segment) -> "PartReader":
    reader = opener()
    return PartReader(reader, *frame_range(reader, segment))


def frame_range(reader: Any, segment: Segment) -> tuple[int, int]:
    """Find the frames of a segment: those shown from the frame nearest to its start to that before its end.

    Frames are found by the times at which they are shown or, where a file has none, by its average frame rate.

    Args:
        reader: Reader of the whole video.
        segment: Times or frames.

    Returns:
        The first frame, and the first one after the segment; there is at least one frame between them.

    Raises:
        UnreadableVideoError: The segment reaches beyond the end of the video, or the video has no frame rate.
    """
    total = len(reader)
    if segment.unit == "frames":
        first, end, length = int(segment.start), int(segment.end), f"{total} frames"
        beyond = end > total
    else:
        rate = getattr(reader, "rate", None)
        if not rate:
            raise UnreadableVideoError(reader.path, "it has no frame rate; give its segments in frames")
        frame = 1 / float(rate)
        times = getattr(reader, "times", None)
        times = np.arange(total) * frame if times is None else times
        first, end = np.searchsorted(times, [segment.start - frame / 2, segment.end - frame / 2]).tolist()
        seconds = times[-1] + frame
        beyond, length = segment.end > seconds + OVERHANG or first >= total, f"{seconds:.2f} s"
    if beyond:
        raise UnreadableVideoError(reader.path, f"its segment {segment} ends after the video, which has {length}")
    return first, max(end, first + 1)


class PartReader:
    """A reader of the frames from `first` up to, but without, `end` of another reader."""

    def __init__(self, reader: Any, first: int, end: int):
        self.path, self._reader, self._first, self._length = reader.path, reader, first, end - first

    def __len__(self) -> int:
        return self._length

    @property
    def rate(self) -> Fraction | None:
        """Frames per second; None if unknown."""
        return getattr(self._reader, "rate", None)

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode frames (T,), 0 for the first of the segment -> uint8 (T, H, W, 3).

        Raises:
            UnreadableVideoError: A frame is outside the segment, or cannot be decoded.
        """
        wanted = np.asarray(indices)
        if wanted.min() < 0 or wanted.max() >= self._length:
            raise UnreadableVideoError(self.path, f"frame {wanted.max()} is not in its segment of {self._length}")
        return self._reader.read(wanted + self._first)
