"""Videos whose frames show their numbers, as files of many kinds found in data sets and on the web."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np

from datasets.readers.containers import open_video, upright

COUNT = 60
OGG = Path(__file__).parent / "data" / "theora.ogv"
DEFAULTS = {
    "libx264": {"bf": 2, "crf": 12, "sc_threshold": 0},
    "mpeg4": {"bf": 2, "qmax": 6},
    "mpeg2video": {"bf": 2, "b": "2M"},
    "mpeg1video": {"bf": 2, "b": "2M"},
    "libvpx": {"auto-alt-ref": 1, "lag-in-frames": 16, "b": "1M"},
    "libvpx-vp9": {"auto-alt-ref": 1, "lag-in-frames": 16, "b": "1M"},
}
PIXELS = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le", "gif": "rgb8"}
VOP = bytes([0, 0, 1, 0xB6])
NOT_CODED = VOP + bytes([0x50, 0x4F])


def pictures(count: int = COUNT, height: int = 64, width: int = 128) -> Iterator[np.ndarray]:
    """Create frames (H, W, 3) of a pan over a scene, with their numbers shown as eight bright or dark squares."""
    cells = np.random.default_rng(0).integers(60, 196, (height // 8, width // 8 + count // 4, 3), dtype=np.uint8)
    scene = cells.repeat(8, axis=0).repeat(8, axis=1)
    for i in range(count):
        picture = scene[:, 2 * i : 2 * i + width].copy()
        for bit in range(8):
            picture[:16, 16 * bit : 16 * bit + 16] = 255 * (i >> bit & 1)
        yield picture


def numbers_of(frames: Iterable[np.ndarray]) -> list[int]:
    """Read the numbers shown in frames (H, W, 3), upright or not rotated."""
    return [sum(1 << bit for bit in range(8) if f[4:12, 16 * bit + 4 : 16 * bit + 12].mean() > 127) for f in frames]


def decoded_from_the_start(path: Path) -> list[np.ndarray]:
    """Return what a player shows: all frames that PyAV decodes, in order, in RGB and upright."""
    container, stream = open_video(str(path))
    with container:
        return [upright(frame.to_ndarray(format="rgb24"), frame) for frame in container.decode(stream)]


def encode(
    path: Path, codec: str = "libx264", *, muxer: dict | None = None, size: tuple[int, int] = (128, 64), **options
) -> Path:
    """Write `pictures` with a key frame every 12, and two B-frames where the codec has any unless `options` differ."""
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height = size
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        options = {"g": 12} | DEFAULTS.get(codec, {}) | options
        stream.options = {name: str(value) for name, value in options.items()}
        for picture in pictures(COUNT, size[1], size[0]):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def copy(source: Path, target: Path, *, begin: float = 0.0, end: float = 1e9, matrix=None, **tags: str) -> Path:
    """Copy the packets of a video from the last key frame before `begin` on, in seconds, which is time 0 then.

    Pictures before it have negative times, which MP4 files turn into an edit list: so web clips are cut.
    """
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = read.streams.video[0]
        copied = written.add_stream_from_template(stream)
        if matrix is not None:
            copied.set_display_matrix(matrix)
        written.metadata.update(tags)
        shift = round(begin / stream.time_base)
        read.seek(shift, stream=stream)
        for packet in read.demux(stream):
            if packet.size and packet.pts * stream.time_base < end:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copied
                written.mux(packet)
    return target


def pack_b_frames(source: Path, target: Path) -> Path:
    """Copy an MPEG-4 video as XviD and DivX store B-frames in AVI: beside the frame after them, an empty packet each.

    At the end one more empty packet stands for a frame that was never coded.
    """
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = read.streams.video[0]
        copied = written.add_stream_from_template(stream)
        packets = [bytes(packet) for packet in read.demux(stream) if packet.size]
        kinds = [data[data.index(VOP) + 4] >> 6 for data in packets]  # 0 intra, 1 predicted, 2 B
        chunks = []
        for data, kind in zip(packets, kinds, strict=True):
            if kind == 2:
                chunks[-1] += data
                chunks.append(NOT_CODED)
            else:
                chunks.append(data)
        chunks.append(NOT_CODED)
        start = chunks[0].index(VOP)
        chunks[0] = chunks[0][:start] + b"\0\0\1\xb2DivX503b1393p" + chunks[0][start:]
        for i, chunk in enumerate(chunks):
            packet = av.Packet(chunk)
            packet.pts = packet.dts = i
            packet.time_base, packet.stream = 1 / stream.average_rate, copied
            packet.is_keyframe = chunk[chunk.index(VOP) + 4] >> 6 == 0
            written.mux(packet)
    return target


def replace_bytes(source: Path, target: Path, old: bytes, new: bytes) -> Path:
    """Write a file with some bytes replaced by the same number of others."""
    content = source.read_bytes()
    assert old in content and len(old) == len(new)
    target.write_bytes(content.replace(old, new))
    return target


def with_cover(source: Path, target: Path) -> Path:
    """Copy a video and add a cover image as the first stream of the file."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        cover = written.add_stream("mjpeg", rate=25)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        stream = read.streams.video[0]
        copied = written.add_stream_from_template(stream)
        for packet in cover.encode(av.VideoFrame(64, 64, "yuvj420p")) + cover.encode():
            written.mux(packet)
        for packet in read.demux(stream):
            if packet.size:
                packet.stream = copied
                written.mux(packet)
    return target
