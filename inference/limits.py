"""What a video of unknown origin may be; a guard decodes it in a process that may hang or crash."""

import os
from dataclasses import dataclass
from functools import partial

from datasets.readers import Guard, GuardedReader, UnreadableVideoError, VideoFile

MOST_WINDOWS = 32
MOST_PIXELS = 4096 * 2304


@dataclass(frozen=True)
class Limits:
    """The `megabytes` of its file, the number of its `frames`, and the `seconds` that one reading of it may take."""

    megabytes: int = 100
    frames: int = 3600
    seconds: float = 60.0


def open_within(path: str, guard: Guard, limits: Limits) -> GuardedReader:
    """Open a video file within the limits, of which `guard` keeps the time.

    Raises:
        UnreadableVideoError: the file is too large or too long, no video, or takes too long to decode.
    """
    if os.path.getsize(path) > limits.megabytes * 2**20:
        raise UnreadableVideoError(path, f"it is larger than {limits.megabytes} MB")
    reader = guard.open(path, partial(VideoFile, path))
    if len(reader) > limits.frames:
        raise UnreadableVideoError(path, f"it has {len(reader)} frames, and {limits.frames} are allowed")
    height, width = reader.read([0]).shape[1:3]
    if height * width > MOST_PIXELS:
        raise UnreadableVideoError(path, f"its pictures of {width} x {height} pixels are too large")
    return reader


def stride_for(total_frames: int, window: int) -> int:
    """A stride that gives at most `MOST_WINDOWS` windows, at least a quarter of the window."""
    spare = max(0, total_frames - window)
    return max(1, window // 4, -(-spare // (MOST_WINDOWS - 1)))
