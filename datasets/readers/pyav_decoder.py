"""Decode with PyAV, the default: any frame that a player shows, by its number."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import Any

import av
import numpy as np

from datasets.readers import new_frames
from datasets.readers.containers import Converter, is_fresh_start, open_video
from datasets.readers.frame_index import (
    FrameIndex,
    can_index_by_packets,
    decode_packets,
    index_by_decoding,
    index_by_packets,
    packet_id,
)

MOST_KEPT = 64 * 2**20
"""Maximum bytes of frames kept in memory if a file has to be decoded to index it."""

SHORT_OF = 8
"""Number of packets before the target to which seeking falls back if it ends up after the target."""

ROUNDING = 0.01
"""Relative difference up to which a measured frame rate counts as equal to the one in the metadata."""


def open_decoder(path: str) -> "PyavDecoder":
    """Open a file; raise av.FFmpegError or EOFError if it is not a video, or damaged."""
    return PyavDecoder(path)


class PyavDecoder:
    """Decoder of one file.

    Frames are located by their packets (`FrameIndex`): decoding starts at the preceding key frame or continues from
    the last read, and every packet is compared with the index. If seeking does not reach the expected packet, decoding
    starts from the beginning of the file.
    """

    def __init__(self, path: str):
        """Open the file; raise av.FFmpegError or EOFError if it is not a video, or damaged."""
        self._path = path
        self._open()
        self._index, kept = self._make_index()
        self._numbers = {frame_id: i for i, frame_id in enumerate(self._index.frames)}
        known = {packet: i for i, packet in enumerate(self._index.packets)}
        self._known = known if len(known) == len(self._index.packets) else {}
        self._wanted: set[int | None] = set()
        self._frames: Iterator | None = None
        self._skips = False
        self._kept = dict(enumerate(kept)) or {0: self._frame(0)}
        self._skips = self._stream.codec_context.name == "h264" and self._index.from_packets
        self._convert = Converter(self._kept[0])

    def _open(self) -> None:
        self._container, self._stream = open_video(self._path)
        self._stream.codec_context.copy_opaque = True

    def _make_index(self) -> tuple[FrameIndex, list[av.VideoFrame]]:
        if can_index_by_packets(self._container, self._stream):
            index = index_by_packets(self._container, self._stream)
            if index is not None:
                return index, []
            self._open()
        return index_by_decoding(self._container, self._stream, MOST_KEPT)

    def is_plain(self) -> bool:
        """Return whether each packet is one frame and groups of pictures are closed."""
        start = self._index.starts[-1]
        if not self._index.plain:
            return False
        self._frame(self._numbers[start, 0])
        return self._first == start

    def __len__(self) -> int:
        return len(self._index.frames)

    @property
    def rate(self) -> Fraction | None:
        """Average frames per second, from the presentation times; None if the file has none."""
        guessed = self._stream.guessed_rate
        packets = [packet for packet, _ in self._index.frames if packet is not None]
        times = [time for packet in packets if (time := self._index.times[packet]) is not None]
        unit = self._stream.time_base
        if len(times) < max(2, len(packets)) or max(times) == min(times) or unit is None:
            return guessed
        measured = Fraction(len(times) - 1, max(times) - min(times)) / unit
        # Rounded times turn a rate of 25 into 24.98.
        return guessed if guessed and abs(measured / guessed - 1) < ROUNDING else measured

    @property
    def times(self) -> np.ndarray | None:
        """When each frame is shown, in seconds after the first one: (N,) float64, ascending; None if unknown."""
        unit = self._stream.time_base
        if not self._index.from_packets or unit is None:
            return None
        # An index from packets has the packet of every frame, and its time.
        packets: Any = [packet for packet, _ in self._index.frames]
        times = np.array(self._index.times[:-1], dtype=np.float64)[packets] * float(unit)
        return times - times[0]

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Decode sorted, distinct frames (T,) -> uint8 (T, H, W, 3), or raise av.FFmpegError or EOFError."""
        wanted = indices.tolist()
        self._wanted = {self._index.frames[i][0] for i in wanted}
        pictures: Any = None
        for place, i in enumerate(wanted):
            try:
                picture = self._convert(self._kept.get(i) or self._frame(i))
            except Exception:
                self._frames = None  # do not continue after a failure
                raise
            if pictures is None:
                pictures = new_frames.allocate((len(wanted), *picture.shape))
            pictures[place] = picture
        return pictures

    def _frame(self, number: int) -> av.VideoFrame:
        """Decode a frame, continuing the current pass if it is still ahead and no key frame is closer."""
        packet, start = self._index.frames[number][0], self._index.starts[number]
        if self._frames is None or number <= self._shown or start > self._fed or packet in self._skipped:
            self._begin(start)
        frame = self._next(number)
        if frame is None and self._first > 0:
            self._forget_keys()
            self._begin(0)
            frame = self._next(number)
        if frame is None:
            raise EOFError(f"frame {number} is missing in the stream")
        return frame

    def _next(self, number: int) -> av.VideoFrame | None:
        """Continue to a frame; None if it is not found, or if decoding did not start at a true key frame."""
        for frame_id, frame in self._frames or ():
            shown = self._numbers.get(frame_id, -1)
            if not self._trusted:
                if shown < self._numbers[self._first, 0]:
                    continue  # it refers to frames before the key frame
                self._trusted = frame_id == (self._first, 0) and is_fresh_start(frame)
            if not self._trusted or (frame.is_corrupt and self._first > 0):
                return None
            self._shown = max(shown, self._shown)
            if self._shown >= number:
                return frame if shown == number else None
        return None

    def _begin(self, first: int) -> None:
        """Start decoding at a packet, or at the start of the file if seeking does not reach it."""
        packets = self._seek(first)
        if packets is None:
            if first > 0:
                self._forget_keys()
            self._open()
            first, packets = 0, enumerate(self._container.demux(self._stream))
        self._first, self._fed, self._shown, self._skipped = first, first, -1, set()
        self._trusted = first == 0
        self._frames = decode_packets(self._watched(packets))

    def _forget_keys(self) -> None:
        """Always decode from the start of the file from now on."""
        self._index = replace(self._index, starts=[0] * len(self._index.frames))

    def _seek(self, first: int) -> Iterable[tuple[int, av.Packet]] | None:
        """Seek to a packet and return the numbered packets from there; None if that fails."""
        for target in (first, max(0, first - SHORT_OF)):  # some containers seek slightly too far
            time = self._index.times[target]
            if time is None or not self._known:
                return None
            try:
                self._container.seek(time, stream=self._stream)
            except (av.FFmpegError, OSError):
                return None
            packets = self._container.demux(self._stream)
            for packet in packets:
                number = self._known.get(packet_id(packet), -1)
                if number == first:
                    return chain([(first, packet)], enumerate(packets, first + 1))
                if number > first:
                    break
        return None

    def _watched(self, packets: Iterable[tuple[int, av.Packet]]) -> Iterator[tuple[int, av.Packet]]:
        """Yield packets as long as they match the index.

        H.264 frames that no other frame refers to are decoded only if they are requested.
        """
        codec = self._stream.codec_context
        for number, packet in packets:
            if number >= len(self._index.packets) or self._index.packets[number] != packet_id(packet):
                return
            self._fed = number
            if self._skips:
                skipped = number not in self._wanted
                codec.skip_frame = "NONREF" if skipped else "DEFAULT"
                if skipped:
                    self._skipped.add(number)
            yield number, packet
