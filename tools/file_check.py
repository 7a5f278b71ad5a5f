"""Looking at one clip's file: everything is decoded, by FFmpeg in order and then as training reads it, by number."""

import os
from dataclasses import asdict, dataclass, field
from typing import Any

import av
import numpy as np

from datasets.annotations import Kind, resolve_video_path
from datasets.readers import FrameFolder, ImageFile, UnreadableVideoError, VideoFile

USUAL_PIXELS = ("yuv420p", "yuvj420p")
UNEVEN = (
    0.25  # a gap between frames that differs by more than this share from the median is no rounding of time stamps
)
FRAMES_AT_ONCE = 16


@dataclass(frozen=True)
class FileJob:
    """Which file or frame folder to look at; `total_frames` is what the list says, 0 for videos."""

    path: str
    kind: Kind
    total_frames: int = 0
    filename_tmpl: str = ""
    first_frame: int = 1


@dataclass
class FileFacts:
    """What was found: `broken` and `odd` are findings in words, `about` what the file says of itself."""

    frames: int = 0
    broken: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


def check_file(job: FileJob) -> dict[str, Any]:
    """Decode all of a video, frame folder or image and give its `FileFacts` as a dict."""
    return asdict(_check_video(job.path) if job.kind == "video" else _check_images(job))


def _check_video(path: str) -> FileFacts:
    facts = FileFacts()
    path = resolve_video_path(path)
    if not os.path.isfile(path):
        facts.broken.append("there is no such file")
    elif os.path.getsize(path) == 0:
        facts.broken.append("the file is empty")
    else:
        _decode_in_order(path, facts)
        if not facts.broken:
            _read_by_number(path, facts)
    return facts


def _decode_in_order(path: str, facts: FileFacts) -> None:
    """Decode every frame of the first video stream."""
    try:
        with av.open(path) as container:
            if not container.streams.video:
                kinds = {stream.type for stream in container.streams}
                facts.broken.append("it has sound only" if kinds == {"audio"} else "it has no video stream")
                return
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            facts.about = {"codec": stream.codec_context.name, "container": container.format.name}
            if len(container.streams.video) > 1:
                facts.odd.append(f"{len(container.streams.video)} video streams, of which the first is read")
            _look_at_frames(container.decode(stream), facts)
    except av.error.FFmpegError as error:
        where = f"decoding fails after {facts.frames} frames" if facts.about else "it is not a video, or damaged"
        facts.broken.append(f"{where} ({error.strerror})")
        return
    if not facts.frames:
        facts.broken.append("it has no frames")


def _look_at_frames(frames, facts: FileFacts) -> None:
    """Count frames, and compare their sizes, formats, turns and times."""
    sizes, pixels, turns, times, damaged = {}, {}, {}, [], 0
    for frame in frames:
        facts.frames += 1
        damaged += frame.is_corrupt
        # dicts as sets that keep their order
        sizes[f"{frame.width}x{frame.height}"] = pixels[frame.format.name] = turns[frame.rotation] = None
        if frame.time is not None:
            times.append(frame.time)
    if damaged:
        facts.broken.append(f"{damaged} of {facts.frames} frames are damaged")
    if len(sizes) > 1:
        facts.odd.append(f"its size changes: {', '.join(sizes)}")
    strange = [name for name in pixels if name not in USUAL_PIXELS]
    if strange:
        facts.odd.append(f"pixel format {', '.join(strange)}")
    if any(turns):
        facts.odd.append(f"rotation metadata: {', '.join(str(turn % 360) for turn in turns)} degrees anticlockwise")
    if len(times) > 2:
        gaps = np.diff(times)
        usual = float(np.median(gaps))
        if np.abs(gaps - usual).max() > max(UNEVEN * usual, 1.5e-3):
            facts.odd.append(f"variable frame rate: {gaps.min() * 1e3:.0f} to {gaps.max() * 1e3:.0f} ms a frame")
        facts.about |= {"fps": round(1 / usual, 3) if usual > 0 else None, "seconds": round(times[-1] + usual, 3)}
    facts.about |= {"size": next(iter(sizes), ""), "pixels": next(iter(pixels), "")}


def _read_by_number(path: str, facts: FileFacts) -> None:
    """Read first, middle and last frame as training does."""
    try:
        reader = VideoFile(path)
        count = len(reader)
        reader.read([0, count // 2, count - 1])
    except UnreadableVideoError as error:
        facts.broken.append(error.reason)
        return
    if count != facts.frames:
        facts.odd.append(f"the reader counts {count} frames, and {facts.frames} decode")


def _check_images(job: FileJob) -> FileFacts:
    """Decode every picture of a frame folder, or a single one."""
    facts = FileFacts()
    single = job.kind == "image" and job.total_frames == 1
    reader = (
        ImageFile(job.path) if single else FrameFolder(job.path, job.total_frames, job.filename_tmpl, job.first_frame)
    )
    sizes = set()
    try:
        for start in range(0, len(reader), FRAMES_AT_ONCE):
            frames = reader.read(range(start, min(start + FRAMES_AT_ONCE, len(reader))))
            sizes.add(f"{frames.shape[2]}x{frames.shape[1]}")
            facts.frames += len(frames)
    except UnreadableVideoError as error:
        facts.broken.append(error.reason)
    if len(sizes) > 1:
        facts.broken.append(f"its frames have different sizes: {', '.join(sorted(sizes))}")
    facts.about = {"size": next(iter(sizes), "")}
    return facts
