"""Which packet of a file holds which of the frames that a player shows.

What a player shows is what FFmpeg gives when it decodes the file from its start, without the frames that the file
marks to be left out (edit lists). In the usual containers and codecs the packets tell it by their time stamps, so that
nothing has to be decoded. Where anything about them is unusual, the file is decoded once from its start.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
from av.container import InputContainer

from datasets.readers.containers import is_fresh_start

PacketId = tuple[int | None, int | None, int]
"""Time stamp, place in the file, size: what a packet is known by again after seeking."""
FrameId = tuple[int | None, int]
"""The number of the packet that a frame was decoded from, and which of its frames it is."""

TIMED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv"}
"""Containers that give every packet the time at which its frame is shown."""
SMALLEST_PICTURE = {"h264": 13, "hevc": 13, "vp9": 1, "av1": 1, "libdav1d": 1, "mjpeg": 1, "prores": 1}
"""Codecs of which a packet holds one picture, unless it has fewer bytes than this."""
FRESH_AT_KEYS = SMALLEST_PICTURE.keys() | {
    *("mpeg4", "mpeg2video", "mpeg1video", "h263", "flv1", "vp8", "theora", "rawvideo"),
    *("wmv1", "wmv2", "wmv3", "vc1", "msmpeg4v1", "msmpeg4v2", "msmpeg4"),
}
"""Codecs that need nothing from before a key frame; others are decoded from the start of the file."""
PROGRESSIVE = (0, 1)
"""Values of a codec's `field_order`: unknown, progressive. Packets of others may hold half a picture."""


@dataclass(frozen=True)
class FrameIndex:
    """The packets of a stream, and the frames that come of them.

    Attributes:
        packets: in the order of the file.
        times: of the packets, for seeking; None where they have none.
        frames: in the order in which they are shown.
        starts: for each frame, the number of the packet to decode from.
        told_by_packets: whether nothing had to be decoded to know it.
        plain: whether, besides, no packet is left out, and none after a key frame is shown before it.
    """

    packets: list[PacketId]
    times: list[int | None]
    frames: list[FrameId]
    starts: list[int]
    told_by_packets: bool
    plain: bool


class PacketLog:
    """The packets of a stream, noted as they pass."""

    def __init__(self):
        self.ids: list[PacketId] = []
        self.times: list[int | None] = []
        self.keys: list[bool] = []
        self.left_out: list[bool] = []

    def numbered(self, packets: Iterable[av.Packet]) -> Iterator[tuple[int, av.Packet]]:
        """Note packets and pass them on with their numbers; the last one, which flushes the decoder, is empty."""
        for number, packet in enumerate(packets):
            self.ids.append(packet_id(packet))
            self.times.append(packet.dts if packet.pts is None else packet.pts)
            self.keys.append(packet.is_keyframe)
            self.left_out.append(packet.is_discard)
            yield number, packet


def packet_id(packet: av.Packet) -> PacketId:
    """Give what a packet is known by again."""
    return packet.pts, packet.pos, packet.size


def may_tell(container: InputContainer, stream: av.VideoStream) -> bool:
    """Whether the packets of a stream can be expected to tell its frames."""
    codec = stream.codec_context
    return (
        container.format.name in TIMED_CONTAINERS
        and codec.name in SMALLEST_PICTURE
        and codec.field_order in PROGRESSIVE
    )


def index_by_packets(container: InputContainer, stream: av.VideoStream) -> FrameIndex | None:
    """Index a stream by the time stamps of its packets; None where they leave doubt, and the file has to be decoded.

    Doubt is: packets without a time, two of one time, one too small for a picture, or a first one that is no key or
    not shown first. `may_tell` says for which streams to try.
    """
    log = PacketLog()
    for _ in log.numbered(container.demux(stream)):
        pass
    ids, keys = log.ids[:-1], log.keys[:-1]
    times = [pts for pts, _, _ in ids if pts is not None]
    smallest = SMALLEST_PICTURE[stream.codec_context.name]
    if not ids or len(set(times)) < len(ids) or min(size for _, _, size in ids) < smallest:
        return None
    if not keys[0] or times[0] != min(times):
        return None
    left_out = np.array(log.left_out[:-1])
    order = np.argsort(times)
    rank = np.argsort(order)  # of each packet, among all in the order of time
    shown = order[~left_out[order]].tolist()
    if not shown:
        return None
    places = [(int(rank[n]), n) for n, key in enumerate(keys) if key and not left_out[n]]
    starts = _starts(places, [(int(rank[n]), n) for n in shown])
    plain = not left_out.any() and all(place == n for place, n in places)
    return FrameIndex(log.ids, log.times, [(n, 0) for n in shown], starts, True, plain)


def index_by_decoding(
    container: InputContainer, stream: av.VideoStream, most_bytes: int
) -> tuple[FrameIndex, list[av.VideoFrame]]:
    """Index a stream by decoding it from its start, and give its frames too if they are at most `most_bytes`."""
    log = PacketLog()
    frames, places, kept, size = [], [], [], 0
    for frame_id, frame in decode_packets(log.numbered(container.demux(stream))):
        number = frame_id[0]
        if number is not None and log.keys[number] and is_fresh_start(frame):
            places.append((len(frames), number))
        frames.append(frame_id)
        size += sum(plane.buffer_size for plane in frame.planes)
        if size <= most_bytes:
            kept.append(frame)
        else:
            kept.clear()
    if not frames:
        raise EOFError("it has no frames")
    fresh = stream.codec_context.name in FRESH_AT_KEYS
    numbers = [(i, -1 if number is None else number) for i, (number, _) in enumerate(frames)]
    starts = _starts(places if fresh else [], numbers)
    return FrameIndex(log.ids, log.times, frames, starts, False, False), kept


def decode_packets(packets: Iterable[tuple[int, av.Packet]]) -> Iterator[tuple[FrameId, av.VideoFrame]]:
    """Decode numbered packets, and tell for each frame which it is.

    What cannot be decoded before the first picture, such as the rest of a group of pictures whose key frame a
    recording has missed, is passed over, as players do.
    """
    counts: Counter[int | None] = Counter()
    for number, packet in packets:
        # PyAV knows these objects by their address: a number itself might be a packet's of another file too
        packet.opaque = [number]
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            if counts:
                raise
            continue
        for frame in frames:
            source = frame.opaque[0] if frame.opaque else None
            yield (source, counts[source]), frame
            counts[source] += 1


def _starts(keys: Sequence[tuple[int, int]], frames: Sequence[tuple[int, int]]) -> list[int]:
    """Find for each frame the packet to decode from: the last key frame that is neither shown nor stored after it.

    Args:
        keys: for each key frame, its place in the order of showing and the number of its packet.
        frames: the same for each frame.
    """
    keys = sorted(keys)
    starts = []
    for place, number in frames:
        i = bisect_right(keys, place, key=lambda key: key[0]) - 1
        starts.append(keys[i][1] if i >= 0 and keys[i][1] <= number else 0)
    return starts
