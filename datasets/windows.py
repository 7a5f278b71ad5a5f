"""Windows over long videos: one rule for training, test and inference.

The rule is VideoMamba's for LVU: windows start at 0, stride, 2 strides, ... below the whole seconds of the video; each
is `window` long, except for the last ones, which end with the video and are kept if they are at least half as long. A
video shorter than a window is a single one.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from datasets.annotations import Record, VideoRecord
from datasets.readers.header import VideoHeader, read_header
from datasets.segments import Segment

READ_AT_ONCE = 16
"""Files whose headers are read at the same time, since the time goes into waiting for the disk."""


def cut(duration: float, window: float, stride: float) -> list[tuple[float, float]]:
    """Cut a video into windows.

    Args:
        duration: Length of the video, in the unit of the result (seconds or frames).
        window: Length of a window; 0 for the whole video.
        stride: Distance between the starts of windows.

    Returns:
        Start and end of each window, in order; there is always one that starts at 0.

    Raises:
        ValueError: The duration or the stride is not positive, or the window is negative.
    """
    if duration <= 0 or window < 0 or (window and stride <= 0):
        raise ValueError(f"cannot cut {duration:g} into windows of {window:g}, {stride:g} apart")
    if not window or duration < window:
        return [(0, duration)]
    count = max(1, math.ceil(int(duration) / stride))
    windows = [(stride * i, min(stride * i + window, duration)) for i in range(count)]
    return [(start, end) for start, end in windows if end - start >= window / 2]


def cut_records(records: Sequence[Record], window: float, stride: float) -> list[Record]:
    """Replace each video, or segment of one, by a record for each of its windows, with the same target and line.

    The lengths of videos are read from the headers of their files. A file that cannot be opened stays one record.

    Args:
        records: Videos.
        window: Length of a window in seconds.
        stride: Seconds between the starts of windows.

    Raises:
        ValueError: The records are frame folders, whose frames have no times.
    """
    videos = [record for record in records if isinstance(record, VideoRecord)]
    if len(videos) < len(records):
        raise ValueError("--window_seconds cuts videos; folders of frames have no seconds, use --window_seconds 0")
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        headers = list(pool.map(read_header, [video.path for video in videos]))
    of_videos = [_pieces(video, header, window, stride) for video, header in zip(videos, headers, strict=True)]
    return [piece for pieces in of_videos for piece in pieces]


def _pieces(video: VideoRecord, header: VideoHeader | None, window: float, stride: float) -> list[Record]:
    """Cut one record; times are counted in the unit of its segment."""
    whole = video.segment
    if header is None or (whole and whole.unit == "frames" and not header.rate):
        return [video]
    if whole is None:
        whole = Segment(0.0, header.seconds)
    per_second = float(header.rate) if whole.unit == "frames" and header.rate else 1.0
    windows = cut((whole.end - whole.start) / per_second, window, stride)
    if windows == [(0, (whole.end - whole.start) / per_second)]:
        return [video]
    pieces = [Segment(whole.start + a * per_second, whole.start + b * per_second, whole.unit) for a, b in windows]
    if whole.unit == "frames":
        pieces = [replace(piece, start=round(piece.start), end=round(piece.end)) for piece in pieces]
    return [replace(video, segment=piece) for piece in pieces]
