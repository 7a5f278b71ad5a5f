"""The decoders compared: bit-identical, upright frames for many kinds of files."""

import subprocess
import sys
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from video_files import numbered_frames, turn_video, write_video

from datasets.readers import VideoFile


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


@pytest.mark.parametrize("name", KINDS)
def test_all_decoders_give_the_same_frames(tmp_path, name):
    options = dict(KINDS[name])
    frames = coloured_frames(24, options.pop("height", 64), options.pop("width", 128))
    path = str(write_video(tmp_path / name, frames, **options))
    with av.open(path) as container:
        in_order = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for indices in (range(24), [2, 9, 17, 23], [23], [8, 5, 5, 0]):
        one, other = (VideoFile(path, reader) for reader in ("decord", "pyav"))
        assert len(one) == len(other) == 24
        found = one.read(indices)
        assert np.array_equal(found, other.read(indices))
        # 10 bits are rounded to 8 in another way by PyAV's own conversion; another frame is off by tens
        assert np.abs(found.astype(int) - np.stack([in_order[i] for i in indices])).mean() < 3


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_pictures_are_turned_upright(tmp_path, degrees):
    frames = numbered_frames(6, 64, 98)
    frames[:, :20, :30] = 250  # bright where the camera's top left is
    path = write_video(tmp_path / "v.mp4", frames)
    turn_video(path, degrees)
    by_decord, by_pyav = (VideoFile(str(path), reader).read([0, 3]) for reader in ("decord", "pyav"))
    assert np.array_equal(by_decord, by_pyav)
    expected = np.rot90(frames[[0, 3]], -degrees // 90, axes=(1, 2))
    assert by_pyav.shape == expected.shape
    assert np.abs(by_pyav.astype(int) - expected).mean() < 4


@pytest.mark.parametrize("name", ["world.mp4", "a.mp4", "b.mp4"])
def test_videos_that_somebody_else_made(name):
    gradio = find_spec("gradio")
    if gradio is None:
        pytest.skip("gradio, whose package holds videos, is not installed")
    path = str(Path(gradio.submodule_search_locations[0]) / "media_assets" / "videos" / name)
    one, other = (VideoFile(path, reader) for reader in ("decord", "pyav"))
    indices = np.linspace(0, len(one) - 1, 8).astype(int)
    assert len(one) == len(other) and np.array_equal(one.read(indices), other.read(indices))


def test_matrix_products_stay_pytorchs_whatever_is_imported_first():
    code = "import datasets.readers.decord_decoder, torch; a = torch.ones(64, 64); print(a.mm(a).sum().item())"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert float(done.stdout) == 64**3
