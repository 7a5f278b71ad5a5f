"""Open video files, choose the stream that players show, and convert frames to upright RGB images."""

import os
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import Interpolation, VideoReformatter

av.logging.set_level(None)


def open_video(path: str) -> tuple[InputContainer, av.VideoStream]:
    """Open a file to decode, in the calling thread, the stream that players show.

    Raises:
        av.FFmpegError: The file is not a video, or damaged.
        EOFError: The file has only audio, or no streams.
    """
    # The path must be absolute, because FFmpeg interprets text before a colon as a protocol. Tags have any encoding.
    container = av.open(os.path.abspath(path), metadata_errors="replace")
    return container, shown_stream(container)


def shown_stream(container: InputContainer) -> av.VideoStream:
    """Return the stream that players show, to be decoded in the calling thread.

    Raises:
        EOFError: The container has only audio, or no streams.
    """
    moving = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    if not moving:
        kinds = {one.type for one in container.streams}
        raise EOFError("it has sound only" if "audio" in kinds else "it has no video stream")
    # FFmpeg's best stream may be a cover image.
    stream = best if isinstance(best, av.VideoStream) and best in moving else moving[0]
    stream.codec_context.thread_count = 1  # parallelism comes from the dataloader workers
    return stream


class Converter:
    """Convert decoded frames to RGB images of the size of the first frame of the file."""

    def __init__(self, first: av.VideoFrame):
        self._reformatter = VideoReformatter()
        self._size = first.width, first.height

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert a frame to upright RGB, uint8 (H, W, 3), rescaled if its size differs; the result is a view."""
        options = {"format": "rgb24", "interpolation": Interpolation.BICUBIC, "threads": 1}
        plane = self._reformatter.reformat(frame, *self._size, **options).planes[0]
        # PyAV's type annotations do not declare planes as buffers.
        rows = np.frombuffer(cast(Any, plane), dtype=np.uint8).reshape(plane.height, plane.line_size)
        return upright(rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3), frame)


def is_fresh_start(frame: av.VideoFrame) -> bool:
    """Return whether a key frame is an intra frame, not the start of a gradual intra refresh."""
    return frame.key_frame and frame.pict_type == PictureType.I


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """Return (a, b, c, d): a pixel at (x, y) of the frame is displayed at (a x + c y, b x + d y)."""
    side_data: Any = frame.side_data  # PyAV's type annotations allow only names as keys
    matrix = side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    return a, b, c, d


def upright(picture: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Rotate and mirror the image (H, W, 3) of a frame according to its metadata; the result is a view.

    Rotations are rounded to multiples of 90 degrees.
    """
    a, b, c, d = display_matrix(frame)
    if abs(b) > abs(a):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
