"""Frame i of a reader is the i-th that a player shows, in every kind of file: the table in docs/data.md."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from decoders_here import INSTALLED
from numbered_videos import (
    COUNT,
    OGG,
    copy,
    decoded_from_the_start,
    encode,
    numbers_of,
    pack_b_frames,
    replace_bytes,
    with_cover,
)
from video_files import numbered_frames, turn_video, write_video

from datasets.readers import UnreadableVideoError, VideoFile, hand_over, pyav_decoder

TABLE = Path(__file__).parent.parent / "docs" / "data.md"
MIRRORED = (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)


def cut(folder: Path, name: str, codec: str = "libx264", *, begin: float = 0.9, end: float = 1e9, **options) -> Path:
    return copy(encode(folder / "whole.mp4", codec, **options), folder / name, begin=begin, end=end)


def turned(folder: Path) -> Path:
    path = encode(folder / "turned.mp4")
    turn_video(path, 90)
    return path


def without_its_beginning(path: Path) -> Path:
    """As a recording that was switched on in the middle of a broadcast: whole packets of 188 bytes are missing."""
    content = path.read_bytes()
    path.write_bytes(content[: 188 * 3] + content[188 * 12 :])
    return path


def of_two_sizes(folder: Path) -> Path:
    """A recording that changes its size halfway, as video calls do."""
    paths = [write_video(folder / f"{h}.ts", numbered_frames(8, h, 2 * h)) for h in (64, 96)]
    (folder / "both.ts").write_bytes(b"".join(path.read_bytes() for path in paths))
    return folder / "both.ts"


def sound_only(folder: Path) -> Path:
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    return folder / "sound.mp4"


OPEN_GROUPS = {"x264-params": "open-gop=1:keyint=12:bframes=3:min-keyint=12"}
HEVC = {"x265-params": "log-level=none:open-gop=1:keyint=12:min-keyint=12"}

FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "MP4, H.264 with B-frames": (lambda d: encode(d / "v.mp4"), "exact"),
    "MP4, H.264, open groups": (lambda d: encode(d / "v.mp4", **OPEN_GROUPS), "handed over"),
    "MP4, H.265, open groups": (lambda d: encode(d / "v.mp4", "libx265", **HEVC), "handed over"),
    "MP4, H.264 in fragments": (
        lambda d: encode(d / "v.mp4", muxer={"movflags": "frag_keyframe+empty_moov"}),
        "exact",
    ),
    "MP4, AV1": (lambda d: encode(d / "v.mp4", "libsvtav1", preset=12), "exact"),
    "MP4, MPEG-4 with B-frames": (lambda d: encode(d / "v.mp4", "mpeg4"), "handed over"),
    "MP4, H.264, refreshed without key frames": (
        lambda d: encode(d / "v.mp4", bf=0, **{"x264-params": "intra-refresh=1:keyint=12"}),
        "handed over",
    ),
    "MP4, H.264, interlaced": (lambda d: encode(d / "v.mp4", flags="+ildct+ilme"), "handed over"),
    "MP4, H.264, every frame called a key frame": (
        lambda d: replace_bytes(encode(d / "w.mp4", bf=0), d / "v.mp4", b"stss", b"free"),
        "exact",
    ),
    "MP4, H.264, cut by an edit list": (lambda d: cut(d, "v.mp4"), "handed over"),
    "MP4, H.264, cut at both ends": (lambda d: cut(d, "v.mp4", end=2.0), "handed over"),
    "MP4, H.264, open groups, cut": (lambda d: cut(d, "v.mp4", **OPEN_GROUPS), "handed over"),
    "MP4, H.265, open groups, cut": (lambda d: cut(d, "v.mp4", "libx265", **HEVC), "handed over"),
    "MP4, turned": (turned, "exact"),
    "MP4, mirrored": (lambda d: copy(encode(d / "w.mp4"), d / "v.mp4", matrix=MIRRORED), "handed over"),
    "MP4, `cam1:12.mp4`": (lambda d: encode(d / "w.mp4").rename(d / "cam1:12.mp4"), "exact"),
    "MP4, a tag that is not UTF-8": (
        lambda d: replace_bytes(
            copy(encode(d / "w.mp4"), d / "x.mp4", title="Cafe!!!"), d / "v.mp4", b"fe!", b"f\xe9\xff"
        ),
        "exact",
    ),
    "MOV, Motion JPEG": (lambda d: encode(d / "v.mov", "mjpeg"), "exact"),
    "MOV, ProRes": (lambda d: encode(d / "v.mov", "prores_ks"), "exact"),
    "3GP, H.263": (lambda d: encode(d / "v.3gp", "h263", size=(176, 144)), "handed over"),
    "MKV, H.264": (lambda d: encode(d / "v.mkv"), "exact"),
    "MKV, H.264, cut": (lambda d: cut(d, "v.mkv"), "exact"),
    "MKV, a picture as the first stream": (lambda d: with_cover(encode(d / "w.mp4"), d / "v.mkv"), "exact"),
    "WebM, VP8 with hidden frames": (
        lambda d: encode(d / "v.webm", "libvpx"),
        "handed over",
    ),
    "WebM, VP9 with hidden frames": (
        lambda d: encode(d / "v.webm", "libvpx-vp9"),
        "exact",
    ),
    "OGV, Theora": (lambda d: Path(shutil.copy(OGG, d)), "handed over"),
    "FLV, H.264": (lambda d: encode(d / "v.flv"), "exact"),
    "FLV, FLV1": (lambda d: encode(d / "v.flv", "flv"), "handed over"),
    "AVI, MPEG-4": (lambda d: encode(d / "v.avi", "mpeg4", bf=0), "handed over"),
    "AVI, MPEG-4 with B-frames": (lambda d: encode(d / "v.avi", "mpeg4"), "handed over"),
    "AVI, MPEG-4 with packed B-frames": (
        lambda d: pack_b_frames(encode(d / "w.avi", "mpeg4", bf=1), d / "v.avi"),
        "handed over",
    ),
    "AVI, H.264 with B-frames": (lambda d: encode(d / "v.avi"), "handed over"),
    "AVI, MS-MPEG-4": (lambda d: encode(d / "v.avi", "msmpeg4"), "handed over"),
    "WMV, WMV2": (lambda d: encode(d / "v.wmv", "wmv2"), "handed over"),
    "MPEG program stream, MPEG-2": (lambda d: encode(d / "v.mpg", "mpeg2video"), "handed over"),
    "MPEG program stream, MPEG-1": (lambda d: encode(d / "v.mpg", "mpeg1video"), "handed over"),
    "VOB, MPEG-2": (lambda d: encode(d / "v.vob", "mpeg2video"), "handed over"),
    "MPEG transport stream (.ts), H.264": (lambda d: encode(d / "v.ts"), "handed over"),
    "MPEG transport stream (.m2ts), H.264": (lambda d: encode(d / "v.m2ts"), "handed over"),
    "MPEG transport stream, MPEG-2": (lambda d: encode(d / "v.ts", "mpeg2video"), "handed over"),
    "MPEG transport stream without its beginning": (
        lambda d: without_its_beginning(encode(d / "v.ts")),
        "handed over",
    ),
    "MPEG transport stream that changes its size": (of_two_sizes, "handed over"),
    "raw H.264": (lambda d: encode(d / "v.h264"), "handed over"),
    "GIF": (lambda d: encode(d / "v.gif", "gif"), "handed over"),
    "sound only": (sound_only, "refused: it has sound only"),
}

# Of those, what test-quick looks at: exact and handed over, cut, packed, without an index, and none at all.
QUICK = (
    "MP4, H.264 with B-frames",
    "MP4, H.264, cut by an edit list",
    "MKV, H.264",
    "AVI, MPEG-4 with packed B-frames",
    "MPEG transport stream (.ts), H.264",
    "sound only",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FILES]
)
def test_every_frame_is_the_one_that_a_player_shows(tmp_path, monkeypatch, caplog, name):
    make, by_others = FILES[name]
    path = make(tmp_path)
    by_pyav = by_others if by_others.startswith("refused") else "exact"
    shown = [] if by_pyav.startswith("refused") else decoded_from_the_start(path)
    for reader in INSTALLED:
        expected = by_pyav if reader == "pyav" else by_others
        caplog.clear()
        hand_over._logged.clear()
        if expected.startswith("refused"):
            with pytest.raises(UnreadableVideoError, match=expected.removeprefix("refused: ")):
                VideoFile(str(path), reader)
            continue
        check(VideoFile(str(path), reader), shown)
        assert expected == ("handed over" if f"by PyAV instead of {reader}" in caplog.text else "exact"), caplog.text
    monkeypatch.setattr(pyav_decoder, "MOST_KEPT", 0)
    if by_pyav == "exact":
        check(VideoFile(str(path)), shown)
    assert table()[name] == [by_pyav, by_others]


def table() -> dict[str, list[str]]:
    """The table of the documentation: file -> what comes of it by pyav, and by decord and torchcodec."""
    text = TABLE.read_text(encoding="utf-8").partition("| file | pyav | decord, torchcodec |")[2].partition("\n\n")[0]
    return {name: outcomes for name, *outcomes in (line.strip("| ").split(" | ") for line in text.splitlines()[2:])}


def test_the_table_has_no_other_files():
    assert list(table()) == list(FILES)


def check(reader: VideoFile, shown: list[np.ndarray]) -> None:
    """Compare the frames of all kinds of readings with those that are shown, to the bit but for rounded ten bits."""
    assert len(reader) == len(shown)
    last = len(shown) - 1
    readings = [
        [last],
        range(len(shown)),
        *(range(start, min(start + 8, len(shown))) for start in range(0, len(shown), 8)),
        np.linspace(0, last, 5).astype(int),
        [last // 2, last // 2 + 1],
        [last, 1, 1, last // 3],
        [0],
    ]
    rng = np.random.default_rng(0)
    readings += [rng.integers(0, len(shown), 4) for _ in range(6)]
    for wanted in readings:
        for number, frame in zip(wanted, reader.read(wanted), strict=True):
            assert frame.shape == shown[0].shape
            if frame.shape == shown[number].shape:  # some file changes its size
                assert np.abs(frame.astype(int) - shown[number]).mean() < 1, (wanted, number)


def test_the_frames_shown_are_those_that_were_filmed(tmp_path):
    """What the truth of these tests rests on, for files whose frames are known without decoding."""
    assert numbers_of(decoded_from_the_start(encode(tmp_path / "v.mp4"))) == list(range(COUNT))
    assert numbers_of(decoded_from_the_start(cut(tmp_path, "c.mp4"))) == list(range(23, COUNT))
    assert numbers_of(decoded_from_the_start(encode(tmp_path / "v.ts"))) == list(range(COUNT))
    path = encode(tmp_path / "v.avi", "mpeg4")
    assert numbers_of(decoded_from_the_start(path)) == list(range(COUNT))


def test_packed_frames_are_fewer_than_packets(tmp_path):
    path = pack_b_frames(encode(tmp_path / "w.avi", "mpeg4", bf=1), tmp_path / "v.avi")
    with av.open(str(path)) as container:
        packets = sum(1 for packet in container.demux(video=0) if packet.size)
    assert len(VideoFile(str(path))) == packets - 1 == COUNT
    assert numbers_of(VideoFile(str(path)).read(range(COUNT))) == list(range(COUNT))


def test_files_with_a_colon_are_read_without_their_folder(tmp_path, monkeypatch):
    encode(tmp_path / "v.mp4").rename(tmp_path / "cam1:12.mp4")
    monkeypatch.chdir(tmp_path)
    for reader in INSTALLED:
        assert numbers_of(VideoFile("cam1:12.mp4", reader).read([31])) == [31]


def test_a_file_that_is_handed_over_is_named_once(tmp_path, caplog):
    path = str(encode(tmp_path / "v.ts"))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            VideoFile(path, "decord")
    assert caplog.text.count(path) == 1


def test_the_rate_is_that_of_the_frames_shown(tmp_path):
    for path in (
        encode(tmp_path / "v.mp4"),
        cut(tmp_path, "c.mp4"),
        encode(tmp_path / "v.avi"),
        encode(tmp_path / "v.ts"),
    ):
        assert VideoFile(str(path)).rate == 25
    varying = write_video(tmp_path / "varying.mkv", numbered_frames(3), times=[0, 100, 400])
    assert VideoFile(str(varying)).rate == 5
