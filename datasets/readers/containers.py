"""Opening video files: which of their streams is shown, which way up, and how fast."""

import os
from fractions import Fraction

import av
import numpy as np
from av.stream import Disposition
from av.sidedata.sidedata import Type as SideData

av.logging.set_level(None)


def open_video(path: str) -> tuple[av.container.InputContainer, av.VideoStream]:
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
    stream = best if best in moving else moving[0]  # and not the picture of a cover
    stream.codec_context.thread_count = 1  # the workers that read are the parallelism
    return container, stream


def frame_rate(path: str) -> Fraction:
    """Frames per second of a video file on average; 25 where it does not tell."""
    container, stream = open_video(path)
    with container:
        return stream.average_rate or Fraction(25)


def upright(picture: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Turn and mirror the picture (H, W, 3) of a frame as the file's display matrix says: a view of it.

    The matrix maps a pixel at (x, y) to (a x + c y, b x + d y). One that turns by anything but right angles is taken
    for the nearest that does.
    """
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return picture
    a, b, _, c, d = np.frombuffer(matrix, dtype=np.int32)[:5].tolist()
    if abs(b) > abs(a):
        picture = picture.transpose(1, 0, 2)
        a, d = c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
