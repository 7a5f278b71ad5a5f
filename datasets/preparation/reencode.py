"""Re-encode a video for fast seeking: smaller frames, in short groups of pictures or as JPEGs."""

import glob
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image

from common.files import atomic_write
from common.flag_types import positive_int, whole_number
from common.settings import option
from datasets.readers import VideoFile

FRAMES_AT_ONCE = 16
FRAME_RATE = 25  # for videos without a known frame rate
FRAME_NAME = "img_{:05}.jpg"


@dataclass(frozen=True)
class Preparation:
    """Settings of re-encoding, as H.264 in short closed groups of pictures or as one folder of JPEGs per video."""

    form: str = option("videos", "(default: %(default)s)", choices=("videos", "frames"))
    short_side: int = option(
        256, "length of the shorter side in pixels; smaller videos are not enlarged", whole_number(16)
    )
    gop: int = option(4, "key frame interval; reading a frame decodes half of it on average", positive_int)
    crf: int = option(20, "quality of x264; lower is better and larger", whole_number(0, 51))
    quality: int = option(95, "quality of JPEGs", whole_number(1, 100))


@dataclass(frozen=True)
class VideoJob:
    """A video to prepare: its path, the file or folder to write, and the settings."""

    source: str
    target: Path
    how: Preparation


def prepare_video(job: VideoJob) -> int:
    """Write all frames of a video to `job.target`, atomically, and return their number.

    Raises:
        UnreadableVideoError: A frame cannot be read.
    """
    reader = VideoFile(job.source)
    if job.how.form == "frames":
        _write_frames(reader, job)
    else:
        _write_video(reader, job)
    return len(reader)


def target_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return the height and width to write: even, as H.264 requires, the shorter side at most `short_side`."""
    scale = min(1.0, short_side / min(height, width))
    even_height, even_width = (max(2, 2 * round(side * scale / 2)) for side in (height, width))
    return even_height, even_width


def _frames(reader: VideoFile) -> Iterator[np.ndarray]:
    """Yield all frames in order, (H, W, 3) uint8, with only a few in memory at a time."""
    for start in range(0, len(reader), FRAMES_AT_ONCE):
        yield from reader.read(range(start, min(start + FRAMES_AT_ONCE, len(reader))))


def _write_video(reader: VideoFile, job: VideoJob) -> None:
    # Left by a killed process; no other process writes this file.
    for leftover in job.target.parent.glob(f".{glob.escape(job.target.name)}.*.tmp"):
        leftover.unlink()
    with atomic_write(job.target) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=reader.rate or FRAME_RATE)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {
            "crf": str(job.how.crf),
            "g": str(job.how.gop),
            "keyint_min": str(job.how.gop),
            "sc_threshold": "0",
            "bf": "0",
            "flags": "+cgop",
            # No arithmetic coding and no deblocking: half the decoding time for about a tenth more size.
            "tune": "fastdecode",
        }
        for i, frame in enumerate(_frames(reader)):
            if i == 0:
                height, width = frame.shape[:2]
                stream.height, stream.width = target_size(height, width, job.how.short_side)
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture = picture.reformat(stream.width, stream.height, "yuv420p", interpolation="BICUBIC")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _write_frames(reader: VideoFile, job: VideoJob) -> None:
    unfinished = job.target.with_name(f".{job.target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for i, frame in enumerate(_frames(reader), start=1):
        picture = Image.fromarray(frame)
        size = target_size(frame.shape[0], frame.shape[1], job.how.short_side)
        if size != frame.shape[:2]:
            picture = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        picture.save(unfinished / FRAME_NAME.format(i), quality=job.how.quality)
    shutil.rmtree(job.target, ignore_errors=True)
    unfinished.rename(job.target)
