"""Small real video files and frame folders for the tests of the data package."""

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


def write_video(path: Path, frames: np.ndarray, **options) -> Path:
    """Write frames as an H.264 file."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "5", "g": "12"} | {key: str(value) for key, value in options.items()}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_folder(path: Path, frames: np.ndarray, template: str = "img_{:05}.jpg") -> Path:
    """Write frames as images named by their number from 1."""
    path.mkdir(parents=True)
    for i, frame in enumerate(frames, start=1):
        Image.fromarray(frame).save(path / template.format(i))
    return path
