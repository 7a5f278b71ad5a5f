"""Check one file: decode all frames in order and compare with frames read by number, as in training."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from datasets.annotations import Kind
from datasets.readers import FrameFolder, ImageFile, UnreadableVideoError, VideoFile
from datasets.readers.containers import Converter, display_matrix, open_video
from datasets.readers.errors import type_and_text
from datasets.readers.frame_index import decode_packets

USUAL_PIXELS = ("yuv420p", "yuvj420p")
UNEVEN = 0.25  # deviation, as a share of a frame interval, above which it is not just a rounded time stamp
FRAMES_AT_ONCE = 16


@dataclass(frozen=True)
class FileJob:
    """A file or frame folder to check; `total_frames` is the number in the list, 0 for videos."""

    path: str
    kind: Kind
    total_frames: int = 0
    filename_tmpl: str = ""
    first_frame: int = 1


@dataclass
class FileFacts:
    """Result of a check.

    Attributes:
        frames: Number of frames.
        broken: Descriptions of errors.
        odd: Descriptions of unusual properties.
        about: Metadata of the file, such as codec and size.
        rate: Frames per second on average, as training reads the file; None if unknown or for images.
        times: When each frame is shown, in seconds, if these are not the times of a constant rate; else empty.
    """

    frames: int = 0
    broken: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    rate: float | None = None
    times: list[float] = field(default_factory=list)


def check_file(job: FileJob) -> dict[str, Any]:
    """Decode all frames of a video, frame folder or image and return its `FileFacts` as a dict."""
    return asdict(_check_video(job.path) if job.kind == "video" else _check_images(job))


def _check_video(path: str) -> FileFacts:
    facts = FileFacts()
    try:
        reader = VideoFile(path)
        pictures = _decode_in_order(reader.path, facts)
        if not facts.broken:
            _compare(reader, pictures, facts)
            _note_times(reader, facts)
    except UnreadableVideoError as error:
        facts.broken.append(error.reason)
    return facts


def _decode_in_order(path: str, facts: FileFacts) -> list[int]:
    """Decode all frames in order and return the checksums of their images."""
    pictures: list[int] = []
    try:
        container, stream = open_video(path)
        with container:
            facts.about = {"codec": stream.codec_context.name, "container": container.format.name}
            streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
            if len(streams) > 1:
                facts.odd.append(f"{len(streams)} video streams, number {streams.index(stream) + 1} is used")
            decode_times: list[int] = []
            packets = enumerate(_record_times(container.demux(stream), decode_times))
            times = _inspect_frames((frame for _, frame in decode_packets(packets)), facts, pictures)
            if times != sorted(times):  # e.g. AVI with B-frames has decoding times or guesses
                times = min(sorted(times), decode_times, key=_unevenness)
            if stream.time_base is not None:
                _inspect_intervals([time * stream.time_base for time in times], facts)
    except Exception as error:  # noqa: BLE001, damaged files can raise anything
        facts.broken.append(f"decoding fails after {len(pictures)} frames ({type_and_text(error)})")
    return pictures


def _record_times(packets: Iterable[av.Packet], times: list[int]) -> Iterator[av.Packet]:
    for packet in packets:
        if packet.dts is not None:
            times.append(packet.dts)
        yield packet


def _inspect_frames(frames: Iterable[av.VideoFrame], facts: FileFacts, pictures: list[int]) -> list[int]:
    """Count frames, compare sizes, formats and rotations, append checksums to `pictures`; return the time stamps."""
    sizes, pixels, rotations, times, damaged = {}, {}, {}, [], 0
    convert = None
    for frame in frames:
        facts.frames += 1
        convert = convert or Converter(frame)
        damaged += frame.is_corrupt
        # dicts serve as ordered sets
        sizes[f"{frame.width}x{frame.height}"] = pixels[frame.format.name] = rotations[_rotation(frame)] = None
        if frame.pts is not None:
            times.append(frame.pts)
        pictures.append(_checksum(convert(frame)))
    if damaged:
        facts.broken.append(f"{damaged} of {facts.frames} frames are damaged")
    if len(sizes) > 1:
        facts.odd.append(f"its size changes: {', '.join(sizes)}")
    strange = [name for name in pixels if name not in USUAL_PIXELS]
    if strange:
        facts.odd.append(f"pixel format {', '.join(strange)}")
    if any(rotations):
        facts.odd.append(f"rotation metadata: {', '.join(rotation or 'none' for rotation in rotations)}")
    facts.about |= {"size": next(iter(sizes), ""), "pixels": next(iter(pixels), "")}
    return times


def _rotation(frame: av.VideoFrame) -> str:
    """Describe how a frame has to be rotated and mirrored; empty if not at all."""
    a, b, c, d = display_matrix(frame)
    rotation = [f"{frame.rotation % 360} degrees anticlockwise"] if frame.rotation else []
    return ", ".join(rotation + ["mirrored"] * (a * d - b * c < 0))


def _unevenness(times: list[int]) -> float:
    return float(np.ptp(np.diff(times))) if len(times) > 1 else 0.0


def _inspect_intervals(times: list[Fraction], facts: FileFacts) -> None:
    """Check that the intervals between the times (seconds) are even."""
    if len(times) < 3:
        return
    gaps = np.diff(np.array(times, dtype=float))
    usual = float(np.median(gaps))
    if np.abs(gaps - usual).max() > max(UNEVEN * usual, 1.5e-3):
        facts.odd.append(f"variable frame rate: {gaps.min() * 1e3:.0f} to {gaps.max() * 1e3:.0f} ms per frame")
    facts.about |= {"fps": round(1 / usual, 3) if usual > 0 else None, "seconds": round(float(times[-1]) + usual, 3)}


def _compare(reader: VideoFile, pictures: list[int], facts: FileFacts) -> None:
    """Read frames by number, as in training, and compare them with those decoded in order."""
    if len(reader) != len(pictures):
        facts.broken.append(f"the reader counts {len(reader)} frames, but {len(pictures)} are decoded")
        return
    numbers = np.unique(np.linspace(0, len(pictures) - 1, FRAMES_AT_ONCE).astype(int))
    wrong = [
        int(number)
        for number, picture in zip(numbers, reader.read(numbers), strict=True)
        if _checksum(picture) != pictures[number]
    ]
    if wrong:
        facts.broken.append(f"frames {wrong} differ when read by number and when decoded in order")


def _note_times(reader: VideoFile, facts: FileFacts) -> None:
    """Add what finding the frames of a segment takes."""
    facts.rate = float(reader.rate) if reader.rate else None
    if facts.rate and reader.times is not None:
        even = np.arange(len(reader)) / facts.rate
        if np.abs(reader.times - even).max() > UNEVEN / facts.rate:
            facts.times = np.round(reader.times, 6).tolist()


def _checksum(picture: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(picture).data)


def _check_images(job: FileJob) -> FileFacts:
    """Decode all images of a frame folder, or a single image."""
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
