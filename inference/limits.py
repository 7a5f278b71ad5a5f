"""Limits of a video of unknown origin, which a guard decodes in a separate process that may hang or crash."""

import os
from dataclasses import dataclass
from functools import partial

from datasets.readers import Guard, GuardedReader, UnreadableVideoError, VideoFile

MAX_WINDOWS = 32
MAX_PIXELS = 4096 * 2304


@dataclass(frozen=True)
class Limits:
    """Limits of a video.

    Attributes:
        megabytes: size of the file.
        frames: number of frames.
        seconds: duration of one read.
    """

    megabytes: int = 100
    frames: int = 3600
    seconds: float = 60.0


def open_within(path: str, guard: Guard, limits: Limits) -> GuardedReader:
    """Open a video file with PyAV, checking the limits; `guard` enforces the time limit.

    Raises:
        UnreadableVideoError: the file is too large, too long, not a video, or takes too long to decode.
    """
    if os.path.getsize(path) > limits.megabytes * 2**20:
        raise UnreadableVideoError(path, f"it is larger than {limits.megabytes} MB")
    reader = guard.open(path, partial(VideoFile, path))
    if len(reader) > limits.frames:
        raise UnreadableVideoError(path, f"it has {len(reader)} frames, but only {limits.frames} are allowed")
    height, width = reader.read([0]).shape[1:3]
    if height * width > MAX_PIXELS:
        raise UnreadableVideoError(path, f"its frames of {width} x {height} pixels are too large")
    return reader


def stride_for(total_frames: int, window: int) -> int:
    """Return a stride of at least a quarter of the window that gives at most `MAX_WINDOWS` windows."""
    spare = max(0, total_frames - window)
    return max(1, window // 4, -(-spare // (MAX_WINDOWS - 1)))
