"""Decoding by PyAV: slower to start than decord, and right where decord is not (docs/data.md)."""

from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise

import av
import numpy as np

av.logging.set_level(None)

UNTIMED_FORMATS = ("avi", "mpeg", "mpegts")
"""Containers whose time stamps do not tell the order of frames, or do not lead to them: read from the start."""

TURNS = {90: ("2",), 180: ("1", "1"), 270: ("1",)}
"""Degrees that a picture is to be turned counter-clockwise -> settings of FFmpeg's filter `transpose`."""


class PyavDecoder:
    """The decoder of one file: the same frames as `DecordDecoder`'s, bit for bit.

    Frames are numbered in the order they are shown, by the time stamps of the packets, which are read (not decoded)
    when the file is opened. Files without dependable time stamps (AVI, MPEG streams, raw streams) are decoded from
    their start.
    """

    errors = (av.FFmpegError, OSError, EOFError, ValueError)

    def __init__(self, path: str):
        """Open the file; raises one of `errors` where it is no video."""
        self._path = path
        self._container, self._stream = self._open()
        packets = [packet for packet in self._container.demux(self._stream) if packet.size and not packet.is_discard]
        if not packets:
            raise EOFError("it has no frames")
        times = {packet.pts for packet in packets}
        self._length = len(packets)
        timed = self._container.format.name not in UNTIMED_FORMATS and None not in times
        self._seekable = timed and len(times) == len(packets)
        self._times = sorted(times) if self._seekable else []
        self._key_times = sorted(packet.pts for packet in packets if packet.is_keyframe) if self._seekable else []
        self._converter: tuple[tuple, av.filter.Graph] | None = None

    def _open(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        container = av.open(self._path)
        stream = container.streams.best("video")
        if stream is None:
            raise EOFError("it has no video stream")
        stream.thread_count = 1
        return container, stream

    def __len__(self) -> int:
        """Give the number of frames."""
        return self._length

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Decode sorted, distinct frames (T,) -> uint8 (T, H, W, 3); raises one of `errors`."""
        wanted = indices.tolist()
        if self._seekable:
            frames = self._from_key_frames([self._times[index] for index in wanted])
        else:
            frames = self._from_start(wanted)
        return np.stack([self._converted(frame) for frame in frames])

    def _from_key_frames(self, times: list[int]) -> Iterator[av.VideoFrame]:
        """Yield the frames of sorted times, each from the key frame before it, or on from the last one if nearer."""
        shown, frames = None, iter(())
        for time in times:
            key = self._key_times[max(0, bisect_right(self._key_times, time) - 1)]
            if shown is None or key > shown:
                self._container.seek(key, stream=self._stream)
                frames = self._container.decode(self._stream)
            frame = _first(frame for frame in frames if frame.pts >= time)
            shown = frame.pts
            if shown != time:
                raise EOFError("a frame is missing in the stream")
            yield frame

    def _from_start(self, wanted: list[int]) -> Iterator[av.VideoFrame]:
        container, stream = self._open()
        frames = enumerate(container.decode(stream))
        for index in wanted:
            yield _first(frame for number, frame in frames if number == index)

    def _converted(self, frame: av.VideoFrame) -> np.ndarray:
        """Turn a frame upright and into RGB, (H, W, 3), by the filters that decord uses."""
        form = (frame.width, frame.height, frame.format.name, frame.rotation)
        if self._converter is None or self._converter[0] != form:
            self._converter = form, self._build_filters(*form)
        graph = self._converter[1]
        graph.push(frame)
        return graph.pull().to_ndarray()

    def _build_filters(self, width: int, height: int, pixels: str, rotation: float) -> av.filter.Graph:
        graph = av.filter.Graph()
        source = graph.add_buffer(width=width, height=height, format=pixels, time_base=self._stream.time_base)
        turns = [graph.add("transpose", turn) for turn in TURNS.get(round(rotation) % 360, ())]
        chain = [source, *turns, graph.add("format", "pix_fmts=rgb24"), graph.add("buffersink")]
        for one, following in pairwise(chain):
            one.link_to(following)
        graph.configure()
        return graph


def _first(frames: Iterator[av.VideoFrame]) -> av.VideoFrame:
    """Take the next frame; raises EOFError where there is none."""
    frame = next(frames, None)
    if frame is None:
        raise EOFError("the stream ends early")
    return frame
