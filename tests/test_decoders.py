"""The decoders compared: bit-identical, upright frames for many kinds of files."""

import functools
import subprocess
import sys
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
from data_flags import data_flags
from decoders_here import each_decoder
from PIL import Image
from video_files import frame_numbers, numbered_frames, turn_video, write_video

from datasets.build import build_dataset
from datasets.readers import Guard, VideoFile, require_reader
from datasets.readers.hand_over import CheckedDecoder
from datasets.readers.pyav_decoder import PyavDecoder
from datasets.readers.videos import MODULES


def coloured_frames(count, height, width):
    """Create different smooth random colour images, uint8 (count, height, width, 3)."""
    small = np.random.default_rng(0).integers(0, 256, size=(count, 6, 8, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(s).resize((width, height), Image.Resampling.BICUBIC)) for s in small])


KINDS = {
    "h264.mp4": dict(bf=2),
    "open groups.mp4": {"bf": 3, "x264-params": "open-gop=1:keyint=8"},
    "size.mp4": dict(height=66, width=98),
    "large.mp4": dict(height=360, width=640),
    "bt709.mp4": dict(colorspace=1),
    "full range.mp4": dict(pixels="yuvj420p"),
    "444.mp4": dict(pixels="yuv444p"),
    "grey.mp4": dict(pixels="gray"),
    "ntsc.mp4": dict(rate=Fraction(30000, 1001)),
    "varying.mkv": dict(times=np.cumsum(np.arange(24) % 5 * 10 + 20).tolist(), bf=2),
    "hevc ten bits.mp4": {"codec": "libx265", "pixels": "yuv420p10le", "x265-params": "log-level=none"},
    "mpeg4.mp4": dict(codec="mpeg4"),
    "mpeg4.avi": dict(codec="mpeg4", bf=0),
    "vp9.webm": dict(codec="libvpx-vp9"),
    "flv1.flv": dict(codec="flv1"),
}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Gives the path of a film of a kind and its frames in order, as PyAV converts them; each is written once."""
    folder = tmp_path_factory.mktemp("films")

    @functools.cache
    def write(name):
        options = dict(KINDS[name])
        frames = coloured_frames(24, options.pop("height", 64), options.pop("width", 128))
        path = str(write_video(folder / name, frames, **options))
        with av.open(path) as container:
            return path, [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]

    return write


@each_decoder
@pytest.mark.parametrize("name", KINDS)
def test_all_decoders_give_the_same_frames(film, name, by):
    path, in_order = film(name)
    for indices in (range(24), [2, 9, 17, 23], [23], [8, 5, 5, 0]):
        one, other = (VideoFile(path, reader) for reader in (by, "pyav"))
        assert len(one) == len(other) == 24 and np.array_equal(one.times, other.times)
        found = one.read(indices)
        assert np.array_equal(found, other.read(indices))
        # 10 bits are rounded to 8 in another way by PyAV's own conversion; another frame is off by tens
        assert np.abs(found.astype(int) - np.stack([in_order[i] for i in indices])).mean() < 3


@each_decoder
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_pictures_are_turned_upright(tmp_path, degrees, by):
    frames = numbered_frames(6, 64, 98)
    frames[:, :20, :30] = 250  # bright where the camera's top left is
    path = write_video(tmp_path / "v.mp4", frames)
    turn_video(path, degrees)
    found = VideoFile(str(path), by).read([0, 3])
    assert np.array_equal(found, VideoFile(str(path)).read([0, 3]))
    expected = np.rot90(frames[[0, 3]], -degrees // 90, axes=(1, 2))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 4


@each_decoder
@pytest.mark.parametrize("name", ["world.mp4", "a.mp4", "b.mp4"])
def test_videos_that_somebody_else_made(name, by):
    gradio = find_spec("gradio")
    if gradio is None:
        pytest.skip("gradio, whose package holds videos, is not installed")
    path = str(Path(gradio.submodule_search_locations[0]) / "media_assets" / "videos" / name)
    one, other = (VideoFile(path, reader) for reader in (by, "pyav"))
    indices = np.linspace(0, len(one) - 1, 8).astype(int)
    assert len(one) == len(other) and np.array_equal(one.read(indices), other.read(indices))


@each_decoder
def test_every_decoder_works_in_the_process_of_a_guard(tmp_path, by):
    path = str(write_video(tmp_path / "v.mp4", numbered_frames(30)))
    guard = Guard(60, reader=by)
    reader = guard.open(path, partial(VideoFile, path, by))
    assert frame_numbers(reader.read([3, 29, 3])) == [3, 29, 3] and reader.rate == 25
    guard.close()


class FailsLater:
    """A library that opens a file and then fails."""

    def __init__(self, path):
        self.opened = PyavDecoder(path)

    def __len__(self):
        return len(self.opened)

    def decode(self, indices):
        if indices[-1] > 10:
            raise RuntimeError("no more frames left")
        return self.opened.decode(indices)


def test_what_a_library_fails_to_decode_is_read_by_pyav(tmp_path, caplog):
    path = str(write_video(tmp_path / "v.mp4", numbered_frames(30)))
    decoder = CheckedDecoder(path, "another", FailsLater)
    assert frame_numbers(decoder.decode(np.array([3]))) == [3] and not caplog.text
    for _ in range(2):
        assert frame_numbers(decoder.decode(np.array([3, 20]))) == [3, 20]
    assert caplog.text.count(f"{path} is read by PyAV instead of another: RuntimeError: no more frames left") == 1


def test_a_reader_without_its_library_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    write_video(tmp_path / "v.mp4", numbered_frames(8))
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.csv").write_text("v.mp4 0\n")
    without_ffmpeg, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    without_ffmpeg.ffmpeg_major_version = None
    for installed, remedy in ((None, "pip install torchcodec"), (without_ffmpeg, "apt install ffmpeg")):
        monkeypatch.setitem(sys.modules, "torchcodec", installed)
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
        monkeypatch.delitem(sys.modules, "datasets.readers.torchcodec_decoder", raising=False)
        with pytest.raises(ValueError, match=f"^--reader torchcodec cannot be used: .*{remedy}"):
            build_dataset("train", data_flags(tmp_path, "--reader", "torchcodec"))


@pytest.mark.parametrize("failure", ["OSError", "RuntimeError"])
def test_a_library_that_cannot_be_loaded_is_refused_in_one_line(tmp_path, monkeypatch, failure):
    (tmp_path / f"broken_{failure}.py").write_text(f"raise {failure}('libz.so.1: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODULES, "decord", f"broken_{failure}")
    with pytest.raises(ValueError, match=r"^--reader decord cannot be used: libz\.so\.1.*without the flag, PyAV"):
        require_reader("decord")


def test_matrix_products_stay_pytorchs_whatever_is_imported_first():
    code = "import datasets.readers.decord_decoder, torch; a = torch.ones(64, 64); print(a.mm(a).sum().item())"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert float(done.stdout) == 64**3
