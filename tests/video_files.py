"""Small real video files and frame folders for the tests of the data package."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def numbered_frames(count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Frames uint8 (count, height, width, 3) whose grey level, 3 i + 20, tells which one each is."""
    levels = (3 * np.arange(count) + 20).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def frame_numbers(frames: np.ndarray) -> list[int]:
    """Read off which of `numbered_frames` they are, (T, H, W, 3) or (T, C, H, W) uint8."""
    return np.rint((frames.reshape(len(frames), -1).mean(1) - 20) / 3).astype(int).tolist()


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int | Fraction = 25,
    times: Sequence[int] | None = None,
    colorspace: int | None = None,
    silence: int = 0,
    **options,
) -> Path:
    """Write frames as a video, H.264 unless `codec` says otherwise.

    `times`, in milliseconds, make its rate vary; `silence` adds so many seconds of sound.
    """
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if times is not None:
            stream.time_base = Fraction(1, 1000)
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        stream.options = {"crf": "5", "g": "12"} | {key: str(value) for key, value in options.items()}
        sound = container.add_stream("aac", rate=8000, layout="mono") if silence else None
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        for second in range(silence):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            samples.sample_rate, samples.pts = 8000, 8000 * second
            container.mux(sound.encode(samples))
        container.mux(sound.encode() if sound else [])
    return path


def turn_video(path: Path, degrees: int) -> None:
    """Rewrite a file's track header so that players turn its pictures clockwise by 90, 180 or 270 degrees."""
    content = path.read_bytes()
    start = content.index(b"tkhd") + 4 + 40
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    matrix = struct.pack(">9i", cos << 16, sin << 16, 0, -sin << 16, cos << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:start] + matrix + content[start + 36 :])


def write_folder(path: Path, frames: np.ndarray, template: str = "img_{:05}.jpg") -> Path:
    """Write frames as images named by their number from 1."""
    path.mkdir(parents=True)
    for i, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(path / template.format(i))
    return path
