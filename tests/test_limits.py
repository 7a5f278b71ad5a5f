"""What the page takes: sizes, lengths, and files that are no videos, none of which harms the program."""

import pytest
from inference_files import write_moving_video

from datasets.readers import Guard, UnreadableVideoError, VideoFile
from inference import limits
from inference.limits import Limits, open_within, stride_for
from inference.windows import window_starts


@pytest.fixture(scope="module")
def guard():
    guard = Guard(30)
    yield guard
    guard.close()


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(write_moving_video(tmp_path_factory.mktemp("v") / "a.mp4", 12))


def test_a_video_within_the_limits_is_read(guard, video):
    reader = open_within(video, guard, Limits(megabytes=1, frames=12))
    assert len(reader) == 12
    assert (reader.read([3, 7]) == VideoFile(video).read([3, 7])).all()


def test_what_is_beyond_the_limits_is_refused(guard, video, monkeypatch):
    with pytest.raises(UnreadableVideoError, match="larger than 0 MB"):
        open_within(video, guard, Limits(megabytes=0))
    with pytest.raises(UnreadableVideoError, match="12 frames, but only 11 are allowed"):
        open_within(video, guard, Limits(frames=11))
    monkeypatch.setattr(limits, "MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(UnreadableVideoError, match="64 x 48 pixels are too large"):
        open_within(video, guard, Limits())


def test_what_is_no_video_is_told(guard, tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"no video at all")
    with pytest.raises(UnreadableVideoError, match="not a video, or damaged"):
        open_within(str(tmp_path / "text.mp4"), guard, Limits())


@pytest.mark.parametrize("total", [1, 8, 9, 100, 5000])
def test_windows_are_few_enough(total):
    window = min(8, total)
    assert len(window_starts(total, window, stride_for(total, window))) <= limits.MAX_WINDOWS
