"""Opening video files and turning their frames into pictures: which stream is shown, which way up."""

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
    """Open a file to decode the stream that players show, in the calling thread.

    Raises:
        av.FFmpegError: it is not a video, or damaged.
        EOFError: it has sound only, or no video stream at all.
    """
    # An absolute path, since FFmpeg takes what stands before a colon for a protocol. Tags come in any encoding.
    container = av.open(os.path.abspath(path), metadata_errors="replace")
    moving = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    if not moving:
        kinds = {one.type for one in container.streams}
        raise EOFError("it has sound only" if "audio" in kinds else "it has no video stream")
    stream = (
        best if isinstance(best, av.VideoStream) and best in moving else moving[0]
    )  # and not the picture of a cover
    stream.codec_context.thread_count = 1  # the workers that read are the parallelism
    return container, stream


class Converter:
    """Turns decoded frames into pictures, all of one size."""

    def __init__(self, first: av.VideoFrame):
        """Take the size of all pictures from the first frame that the file shows."""
        self._reformatter = VideoReformatter()
        self._size = first.width, first.height

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Convert a frame to upright RGB, uint8 (H, W, 3), scaled where the file has changed its size: a view."""
        options = {"format": "rgb24", "interpolation": Interpolation.BICUBIC, "threads": 1}
        plane = self._reformatter.reformat(frame, *self._size, **options).planes[0]
        # PyAV's types do not say that a plane is a buffer
        rows = np.frombuffer(cast(Any, plane), dtype=np.uint8).reshape(plane.height, plane.line_size)
        return upright(rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3), frame)


def is_fresh_start(frame: av.VideoFrame) -> bool:
    """Whether a key frame is a picture of its own, and not one from which on a picture is refreshed bit by bit."""
    return frame.key_frame and frame.pict_type == PictureType.I


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    """Give (a, b, c, d): a pixel at (x, y) of the frame is to be shown at (a x + c y, b x + d y)."""
    side_data: Any = frame.side_data  # PyAV's types know names as keys alone
    matrix = side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return 1, 0, 0, 1
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    return a, b, c, d


def upright(picture: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Turn and mirror the picture (H, W, 3) of a frame as the file says: a view of it.

    A turn by anything but right angles is taken for the nearest that is.
    """
    a, b, c, d = display_matrix(frame)
    if abs(b) > abs(a):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
