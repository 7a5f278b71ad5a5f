"""Index that maps the frames a player shows to the packets of a file.

A player shows the frames that FFmpeg returns when it decodes the file from the start, without those that the file
marks as discarded (edit lists). In common containers and codecs they follow from the time stamps of the packets, so
nothing has to be decoded. If anything about the packets is unusual, the file is decoded once from the start.
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
"""Time stamp, position in the file and size, which identify a packet after seeking."""
FrameId = tuple[int | None, int]
"""Number of the packet that a frame was decoded from, and index of the frame among those of the packet."""

TIMED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv"}
"""Containers that store the presentation time of each packet."""
SMALLEST_PICTURE = {"h264": 13, "hevc": 13, "vp9": 1, "av1": 1, "libdav1d": 1, "mjpeg": 1, "prores": 1}
"""Codecs whose packets contain one image each, unless a packet has fewer bytes than this."""
FRESH_AT_KEYS = SMALLEST_PICTURE.keys() | {
    *("mpeg4", "mpeg2video", "mpeg1video", "h263", "flv1", "vp8", "theora", "rawvideo"),
    *("wmv1", "wmv2", "wmv3", "vc1", "msmpeg4v1", "msmpeg4v2", "msmpeg4"),
}
"""Codecs that can be decoded from a key frame; others are decoded from the start of the file."""
PROGRESSIVE = (0, 1)
"""Values of a codec's `field_order`: unknown, progressive. Packets of interlaced video may contain half an image."""


@dataclass(frozen=True)
class FrameIndex:
    """The packets of a stream and the frames decoded from them.

    Attributes:
        packets: Packets in the order of the file.
        times: Time stamps of the packets, for seeking; None if a packet has none.
        frames: Frames in the order of presentation.
        starts: For each frame, the number of the packet from which to start decoding.
        from_packets: Whether the index was built from the packets alone, without decoding.
        plain: Whether, in addition, no packet is discarded, and no packet after a key frame is shown before it.
    """

    packets: list[PacketId]
    times: list[int | None]
    frames: list[FrameId]
    starts: list[int]
    from_packets: bool
    plain: bool


class PacketLog:
    """Records the packets of a stream while they are read."""

    def __init__(self):
        self.ids: list[PacketId] = []
        self.times: list[int | None] = []
        self.keys: list[bool] = []
        self.left_out: list[bool] = []

    def numbered(self, packets: Iterable[av.Packet]) -> Iterator[tuple[int, av.Packet]]:
        """Record packets and yield them with their numbers; the last one, which flushes the decoder, is empty."""
        for number, packet in enumerate(packets):
            self.ids.append(packet_id(packet))
            self.times.append(packet.dts if packet.pts is None else packet.pts)
            self.keys.append(packet.is_keyframe)
            self.left_out.append(packet.is_discard)
            yield number, packet


def packet_id(packet: av.Packet) -> PacketId:
    """Return the identity of a packet."""
    return packet.pts, packet.pos, packet.size


def can_index_by_packets(container: InputContainer, stream: av.VideoStream) -> bool:
    """Return whether the packets of a stream should suffice to index its frames."""
    codec = stream.codec_context
    return (
        container.format.name in TIMED_CONTAINERS
        and codec.name in SMALLEST_PICTURE
        and codec.field_order in PROGRESSIVE
    )


def index_by_packets(container: InputContainer, stream: av.VideoStream) -> FrameIndex | None:
    """Index a stream by the time stamps of its packets; return None if they are ambiguous.

    They are if a packet has no time stamp, the time stamp of another one, or too few bytes for an image, or if the
    first packet is not a key frame or not shown first. `can_index_by_packets` returns whether this works.
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
    rank = np.argsort(order)  # of each packet, by time
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
    """Index a stream by decoding it from the start; also return its frames if they fit in `most_bytes`."""
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
    """Decode numbered packets and yield each frame with its id.

    Packets that cannot be decoded before the first image, such as the rest of a group of pictures whose key frame is
    missing in a recording, are skipped, as players do.
    """
    counts: Counter[int | None] = Counter()
    for number, packet in packets:
        # PyAV identifies these objects by address; a plain number may be shared with a packet of another file.
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
    """Find the packet from which to decode each frame: the last key frame neither shown nor stored after it.

    Args:
        keys: For each key frame, its place in the order of presentation and the number of its packet.
        frames: The same for each frame.
    """
    keys = sorted(keys)
    starts = []
    for place, number in frames:
        i = bisect_right(keys, place, key=lambda key: key[0]) - 1
        starts.append(keys[i][1] if i >= 0 and keys[i][1] <= number else 0)
    return starts
