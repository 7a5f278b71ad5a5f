"""Decoding by PyAV, the default: every frame that a player shows, by its number."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import Any

import av
import numpy as np

from datasets.readers.containers import Converter, is_fresh_start, open_video
from datasets.readers.frame_index import (
    FrameIndex,
    decode_packets,
    index_by_decoding,
    index_by_packets,
    may_tell,
    packet_id,
)

MOST_KEPT = 64 * 2**20
"""Bytes of frames that are kept where a file has to be decoded before its frames can be numbered."""

SHORT_OF = 8
"""How many packets before the right one seeking is tried, where it leads beyond."""

ROUNDING = 0.01
"""A measured rate that differs by less than this share from the one that the file tells is the same."""


class PyavDecoder:
    """The decoder of one file.

    Frames are found again by the packets that they come from (`FrameIndex`): decoding begins at the key frame before,
    or goes on from where the last reading ended, and every packet is compared with the index. Where seeking does not
    lead to the packet that it should, decoding begins at the start of the file.
    """

    def __init__(self, path: str):
        """Open the file; raises av.FFmpegError or EOFError where it is no video, or damaged."""
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
        self._skips = self._stream.codec_context.name == "h264" and self._index.told_by_packets
        self._convert = Converter(self._kept[0])

    def _open(self) -> None:
        self._container, self._stream = open_video(self._path)
        self._stream.codec_context.copy_opaque = True

    def _make_index(self) -> tuple[FrameIndex, list[av.VideoFrame]]:
        if may_tell(self._container, self._stream):
            index = index_by_packets(self._container, self._stream)
            if index is not None:
                return index, []
            self._open()
        return index_by_decoding(self._container, self._stream, MOST_KEPT)

    def is_plain(self) -> bool:
        """Whether the packets tell the frames, one each, and groups of pictures stand for themselves."""
        start = self._index.starts[-1]
        if not self._index.plain:
            return False
        self._frame(self._numbers[start, 0])
        return self._first == start

    def __len__(self) -> int:
        return len(self._index.frames)

    @property
    def rate(self) -> Fraction | None:
        """Frames per second on average, by the times of those that are shown; None where the file tells no times."""
        guessed = self._stream.guessed_rate
        packets = [packet for packet, _ in self._index.frames if packet is not None]
        times = [time for packet in packets if (time := self._index.times[packet]) is not None]
        unit = self._stream.time_base
        if len(times) < max(2, len(packets)) or max(times) == min(times) or unit is None:
            return guessed
        measured = Fraction(len(times) - 1, max(times) - min(times)) / unit
        # rounded times make a rate of 25 one of 24.98
        return guessed if guessed and abs(measured / guessed - 1) < ROUNDING else measured

    def decode(self, indices: np.ndarray) -> np.ndarray:
        """Decode sorted, distinct frames (T,) -> uint8 (T, H, W, 3); raises av.FFmpegError or EOFError."""
        wanted = indices.tolist()
        self._wanted = {self._index.frames[i][0] for i in wanted}
        pictures: Any = None
        for place, i in enumerate(wanted):
            try:
                picture = self._convert(self._kept.get(i) or self._frame(i))
            except Exception:
                self._frames = None  # what has failed does not go on
                raise
            if pictures is None:
                pictures = np.empty((len(wanted), *picture.shape), dtype=np.uint8)
            pictures[place] = picture
        return pictures

    def _frame(self, number: int) -> av.VideoFrame:
        """Decode a frame, in the pass that has begun if it is still to come there and no key frame is nearer."""
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
        """Go on to a frame; None where it does not come, or where decoding did not begin afresh."""
        for frame_id, frame in self._frames or ():
            shown = self._numbers.get(frame_id, -1)
            if not self._trusted:
                if shown < self._numbers[self._first, 0]:
                    continue  # it refers to pictures before the key frame
                self._trusted = frame_id == (self._first, 0) and is_fresh_start(frame)
            if not self._trusted or (frame.is_corrupt and self._first > 0):
                return None
            self._shown = max(shown, self._shown)
            if self._shown >= number:
                return frame if shown == number else None
        return None

    def _begin(self, first: int) -> None:
        """Begin to decode at a packet, or at the start of the file where seeking does not lead to it."""
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
        """Decode from the start of the file from now on."""
        self._index = replace(self._index, starts=[0] * len(self._index.frames))

    def _seek(self, first: int) -> Iterable[tuple[int, av.Packet]] | None:
        """Seek to a packet and give the numbered packets from it on; None where that fails."""
        for target in (first, max(0, first - SHORT_OF)):  # some containers lead a little beyond
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
        """Pass packets on while they are those of the index.

        Of H.264, pictures that no other refers to are not decoded unless they are wanted.
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
