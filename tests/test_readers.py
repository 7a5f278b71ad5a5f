"""Readers: correct frames of real files, and one clear error for everything unreadable."""

import pickle
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from decoders_here import INSTALLED, each_decoder
from PIL import Image
from video_files import frame_numbers, numbered_frames, write_folder, write_video

from datasets.readers import FrameFolder, ImageFile, UnreadableVideoError, VideoFile


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "v.mp4", numbered_frames(60, 64, 128))


INDICES = {
    "all": list(range(60)),
    "dense": list(range(10, 26, 2)),
    "far apart": [3, 20, 41, 59],
    "repeated": [0, 0, 5, 5, 5, 7],
    "out of order": [30, 2, 59, 2, 31],
    "last": [59] * 8,
    "one": [17],
}


@each_decoder
@pytest.mark.parametrize("name", INDICES)
def test_a_video_gives_the_asked_frames(video, name, by):
    reader = VideoFile(str(video), by)
    assert len(reader) == 60
    frames = reader.read(np.array(INDICES[name]))
    assert frames.dtype == np.uint8 and frames.shape == (len(INDICES[name]), 64, 128, 3)
    assert frame_numbers(frames) == INDICES[name]


@pytest.mark.parametrize("width", [16, 32, 48, 66, 72, 96, 98, 100, 126, 130, 162])
def test_pictures_of_any_width(tmp_path, width):
    """Held against PyAV's own conversion, of one codec and in the plainest way."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, size=(5, 8, width // 2, 3), dtype=np.uint8).repeat(4, axis=1).repeat(2, axis=2)
    path = write_video(tmp_path / "v.mp4", blocks)
    with av.open(str(path)) as container:
        expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    for by in INSTALLED:
        found = VideoFile(str(path), by).read([0, 3, 4])
        assert np.array_equal(found, expected[[0, 3, 4]])


@each_decoder
def test_each_frame_is_decoded_once(video, monkeypatch, by):
    reader = VideoFile(str(video), by)
    asked = []
    decoder = type(reader._decoder)
    decode = decoder.decode
    monkeypatch.setattr(decoder, "decode", lambda self, indices: asked.extend(indices) or decode(self, indices))
    assert frame_numbers(reader.read([40, 3, 3, 40, 20])) == [40, 3, 3, 40, 20]
    assert [int(i) for i in asked] == [3, 20, 40]


def test_a_path_without_suffix_is_completed(video):
    assert len(VideoFile(str(video.with_suffix("")))) == 60


def damaged(tmp_path, video, how):
    path = tmp_path / "broken.mp4"
    if how == "empty":
        path.touch()
    elif how == "text":
        path.write_text("not a video\n" * 50)
    elif how == "truncated":
        # without its end, a file that keeps its index there has none
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
            for frame in numbered_frames(30, 64, 64):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        path.write_bytes(path.read_bytes()[:-600])
    elif how == "folder":
        path.mkdir()
    elif how == "no frames":
        with av.open(str(path), "w") as container:
            container.add_stream("libx264", rate=25)
            container.start_encoding()
    elif how == "sound only":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
            silence.sample_rate = 16000
            container.mux(stream.encode(silence))
            container.mux(stream.encode())
    return str(path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no frames", "not a video, or damaged"),
        ("sound only", "not a video, or damaged"),
        ("missing", "no such file"),
        ("empty", "is empty"),
        ("text", "not a video"),
        ("truncated", "not a video, or damaged"),
        ("folder", "no such file"),
    ],
)
@each_decoder
def test_unreadable_videos_are_told(tmp_path, video, how, said, by):
    path = damaged(tmp_path, video, how)
    with pytest.raises(UnreadableVideoError, match=said) as error:
        VideoFile(path, by)
    assert error.value.path == path
    assert path in str(error.value) and "\n" not in str(error.value)


@each_decoder
def test_a_video_damaged_in_the_middle_is_told_when_it_is_read(tmp_path, by):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, size=(40, 64, 64, 3), dtype=np.uint8)
    path = write_video(tmp_path / "v.mp4", noise)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = rng.bytes(4000)
    path.write_bytes(content)
    reader = VideoFile(str(path), by)
    with pytest.raises(UnreadableVideoError, match="cannot be decoded"):
        reader.read(range(40))


@each_decoder
def test_frames_beyond_the_end_are_told(video, by):
    with pytest.raises(UnreadableVideoError, match="frame 60 does not exist"):
        VideoFile(str(video), by).read([58, 60])


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(UnreadableVideoError("a.mp4", "because")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "because", "cannot read a.mp4: because")


@pytest.mark.parametrize("template", ["img_{:05}.jpg", "{:d}.png"])
def test_frame_folders(tmp_path, template):
    folder = write_folder(tmp_path / "f", numbered_frames(20), template)
    reader = FrameFolder(str(folder), 20, template)
    assert len(reader) == 20
    frames = reader.read(np.array([0, 19, 5, 5]))
    assert frames.dtype == np.uint8 and frames.shape == (4, 64, 96, 3)
    assert frame_numbers(frames) == [0, 19, 5, 5]


def test_unreadable_frame_folders_are_told(tmp_path):
    folder = write_folder(tmp_path / "f", numbered_frames(5))
    with pytest.raises(UnreadableVideoError, match="img_00006.jpg is missing .*expected 6 frames.*--filename_tmpl"):
        FrameFolder(str(folder), 6).read([5])
    with pytest.raises(UnreadableVideoError, match="no such folder"):
        FrameFolder(str(tmp_path / "nowhere"), 6).read([0])
    (folder / "img_00002.jpg").write_bytes((folder / "img_00002.jpg").read_bytes()[:200])
    with pytest.raises(UnreadableVideoError, match="img_00002.jpg is not an image"):
        FrameFolder(str(folder), 5).read([0, 1])
    Image.new("RGB", (10, 10)).save(folder / "img_00003.jpg")
    with pytest.raises(UnreadableVideoError, match="different sizes"):
        FrameFolder(str(folder), 5).read([0, 2])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA", "1"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    colour = Image.new("RGB", (12, 10), (255, 255, 255))
    colour.convert(mode).save(path)
    frames = ImageFile(str(path)).read([0])
    assert frames.shape == (1, 10, 12, 3) and frames.dtype == np.uint8
    assert (frames == 255).all()


def test_sixteen_bits_of_grey_keep_their_ramp(tmp_path):
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    path = tmp_path / "ramp.png"
    Image.fromarray(ramp).save(path)
    read = ImageFile(str(path)).read([0])[0]
    with av.open(str(path)) as container:
        by_ffmpeg = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.abs(read.astype(int) - by_ffmpeg).max() <= 1
    assert read[0, 0].tolist() == [0] * 3 and read[-1, -1].tolist() == [255] * 3


UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_as_their_exif_tag_says(tmp_path, orientation):
    stored = np.random.default_rng(0).integers(0, 256, size=(6, 10, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "img_00001.png"
    Image.fromarray(stored).save(path, exif=exif)
    upright = UPRIGHT[orientation](stored)
    assert np.array_equal(ImageFile(str(path)).read([0])[0], upright)
    assert np.array_equal(FrameFolder(str(tmp_path), 1, "img_{:05}.png").read([0])[0], upright)


def test_a_damaged_exif_tag_does_not_cost_the_picture(tmp_path):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (8, 8), "white").save(path, exif=b"Exif\0\0no TIFF header")
    assert (ImageFile(str(path)).read([0]) == 255).all()


# QOI without pixels; DDS with a pixel format that does not exist; HDR numbers; a picture of 30000 x 30000 pixels
DDS = bytes.fromhex("44445320 7c000000 00000000 40000000 40000000").ljust(76, b"\0") + b" \0\0\0\4\0\0\0ZZZZ"
PNG = bytes.fromhex("89504e470d0a1a0a 0000000d 49484452 00007530 00007530 08 02 000000 00000000")


@pytest.mark.parametrize("content", [b"qoif\0\0\0\x40\0\0\0\x40\3\0", DDS.ljust(128, b"\0"), PNG])
def test_damaged_images_of_rare_formats_are_told(tmp_path, content):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableVideoError, match="not an image, or damaged .[A-Za-z]*Error: "):
        ImageFile(str(path)).read([0])


def test_pictures_without_a_white_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(UnreadableVideoError, match="floating-point numbers"):
        ImageFile(str(tmp_path / "x.tif")).read([0])


def test_more_frames_than_memory_are_refused(tmp_path):
    Image.new("RGB", (3000, 3000)).save(tmp_path / "x.png", compress_level=1)
    with pytest.raises(UnreadableVideoError, match="400 frames of 27 MB would need too much memory"):
        ImageFile(str(tmp_path / "x.png")).read([0] * 400)


def test_unreadable_images_are_told(tmp_path):
    with pytest.raises(UnreadableVideoError, match="no such file"):
        ImageFile(str(tmp_path / "x.jpg")).read([0])
    (tmp_path / "x.jpg").write_text("text")
    with pytest.raises(UnreadableVideoError, match="not an image"):
        ImageFile(str(tmp_path / "x.jpg")).read([0])
    assert ImageFile("x.jpg").__len__() == 1


def test_optional_decoders_are_not_imported_before_they_are_needed():
    code = "import sys, datasets.readers; sys.exit(bool({'decord', 'torch', 'torchcodec'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
