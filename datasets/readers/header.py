"""Length and frame rate of a video from the header of its file, without reading its frames."""

import os
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import av
from av.container import InputContainer

from datasets.annotations import resolve_video_path
from datasets.readers.containers import open_video
from datasets.readers.errors import UnreadableVideoError
from datasets.readers.part import OVERHANG
from datasets.readers.videos import VideoFile
from datasets.segments import Segment


class VideoHeader(NamedTuple):
    """Length of a video in seconds, and its average frames per second; None if unknown."""

    seconds: float
    rate: Fraction | None


def describe_excess(path: str | os.PathLike, segment: Segment) -> str:
    """Say that a segment ends after its video, as far as the header of the file tells; empty if it does not."""
    header = None if os.path.isdir(path) else read_header(str(path))
    if header is None or not header.rate:
        return ""
    end = segment.end if segment.unit == "seconds" else segment.end / float(header.rate)
    return f"has {header.seconds:.2f} s, but the segment is {segment}" if end > header.seconds + OVERHANG else ""


@lru_cache(maxsize=100_000)
def read_header(path: str) -> VideoHeader | None:
    """Read the header of a file, once per process; return None if it cannot be opened.

    If the header gives no length, as in raw streams, the frames are counted.
    """
    try:
        container, stream = open_video(resolve_video_path(path))
        with container:
            rate = stream.guessed_rate or stream.average_rate
            if stream.duration and stream.time_base:
                return VideoHeader(float(stream.duration * stream.time_base), rate)
            if container.duration:
                return VideoHeader(_end_of_pictures(container, stream), rate)
        reader = VideoFile(path)
        return VideoHeader(len(reader) / float(reader.rate), reader.rate) if reader.rate else None
    except (av.FFmpegError, UnreadableVideoError, OSError, EOFError):
        return None


def _end_of_pictures(container: InputContainer, stream: av.VideoStream) -> float:
    """Return the length of a stream in seconds from its last packets; its container may have longer sound."""
    length = (container.duration or 0) / av.time_base
    container.seek(container.duration or 0)
    ends = [packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None]
    if not ends or stream.time_base is None:
        return length
    return min(length, float((max(ends) - (stream.start_time or 0)) * stream.time_base))
