"""Movies read by time stamp: the frame nearest to a time, whatever rate, codec or key frames a file has."""

import av
import numpy as np
import pytest
from numbered_videos import COUNT, copy, decoded_from_the_start, encode, numbers_of
from video_files import frame_numbers, numbered_frames, turn_video, write_folder, write_video

from datasets.readers import UnreadableVideoError, VideoFile
from datasets.readers.timed import TimedVideo, open_frame_folder


def times_of(path):
    """Seconds at which the frames are shown, after the start of the file, as a plain decoding tells them."""
    with av.open(str(path)) as container:
        start = container.start_time / av.time_base
        return np.array([frame.time - start for frame in container.decode(video=0)])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("options", [{}, {"bf": 2, "g": 24}, {"g": 1}])
def test_the_nearest_frame_of_a_variable_rate(tmp_path, suffix, options):
    """Random gaps of 20 to 300 ms, and a pause of 900."""
    rng = np.random.default_rng(0)
    gaps = rng.integers(20, 300, size=59)
    gaps[30] = 900
    times = [0, *np.cumsum(gaps).tolist()]
    path = write_video(tmp_path / f"movie{suffix}", numbered_frames(60), rate=1000, times=times, **options)
    seconds = times_of(path)
    np.testing.assert_allclose(seconds, np.array(times) / 1000, atol=0.002)
    reader = TimedVideo(str(path), 10.0)
    for first in (0, 3, 17, 40, len(reader) - 9):
        wanted = np.arange(first, first + 9)
        nearest = np.abs(seconds[None] - wanted[:, None] / 10).argmin(axis=1)
        assert frame_numbers(reader.read(wanted)) == nearest.tolist()
    # in any order, and again
    assert frame_numbers(reader.read([30, 0, 30])) == frame_numbers(TimedVideo(str(path), 10.0).read([30, 0, 30]))
    assert len(reader) == pytest.approx(10 * (seconds[-1] + 0.1), abs=3)


def test_times_count_from_the_start_of_the_file_whatever_its_first_stamp(tmp_path):
    times = (5000 + 100 * np.arange(30)).tolist()
    path = write_video(tmp_path / "late.mkv", numbered_frames(30), times=times)
    assert frame_numbers(TimedVideo(str(path), 10.0).read([0, 4, 29])) == [0, 4, 29]
    stream = write_video(tmp_path / "stream.ts", numbered_frames(50), rate=25)
    assert frame_numbers(TimedVideo(str(stream), 25.0).read([0, 13, 40])) == [0, 13, 40]


FILES = {
    "h264.mp4": {},
    "h264.mkv": {},
    "open.mkv": {"x264-params": "open-gop=1"},
    "h264.avi": {},
    "h264.ts": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "vp9.webm": {"codec": "libvpx-vp9"},
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_frames_that_a_player_shows_then(tmp_path, name):
    path = encode(tmp_path / name, **FILES[name])
    reader = TimedVideo(str(path), 25.0)
    assert abs(len(reader) - COUNT) <= 1
    for wanted in ([0, 1, 2, 3], [30, 33, 36], [10, 12, 14], [55, 56], [20, 40]):
        assert numbers_of(reader.read(wanted)) == wanted


def test_a_clip_cut_from_a_video_counts_from_its_first_shown_frame(tmp_path):
    path = copy(encode(tmp_path / "whole.mp4"), tmp_path / "cut.mp4", begin=0.7)
    shown = numbers_of(decoded_from_the_start(path))
    assert numbers_of(TimedVideo(str(path), 25.0).read([0, 7, 20])) == [shown[0], shown[7], shown[20]]


def test_pictures_are_those_of_the_other_reader(tmp_path):
    path = write_video(tmp_path / "a.mp4", np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8))
    turn_video(path, 90)
    frames = VideoFile(str(path)).read(range(20))
    assert frames.shape[1:3] == (64, 48)
    np.testing.assert_array_equal(TimedVideo(str(path), 25.0).read(range(20)), frames)


def test_a_movie_that_is_cut_short_is_reported(tmp_path):
    path = write_video(tmp_path / "a.mkv", numbered_frames(200), rate=25)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    reader = TimedVideo(str(path), 25.0)
    assert len(reader) == 200
    assert frame_numbers(reader.read([10, 20])) == [10, 20]
    with pytest.raises(UnreadableVideoError, match="no frame within 1 s of 7.6 s after its start; is it truncated"):
        reader.read([180, 190])
    # a failure does not spoil the next reading
    assert frame_numbers(reader.read([10, 20])) == [10, 20]


def test_what_is_no_movie_is_reported(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    for name, reason in (("text.mp4", "not a video, or damaged"), ("absent.mp4", "no such file")):
        with pytest.raises(UnreadableVideoError, match=reason):
            TimedVideo(str(tmp_path / name), 30.0)


def test_a_folder_is_looked_at_once(tmp_path):
    write_folder(tmp_path / "a", numbered_frames(12), "a_{:06}.jpg")
    reader = open_frame_folder(str(tmp_path / "a"), None)
    assert len(reader) == 12 and frame_numbers(reader.read([0, 11])) == [0, 11]
    assert open_frame_folder(str(tmp_path / "a"), None) is reader
    with pytest.raises(UnreadableVideoError, match="the folder cannot be read"):
        open_frame_folder(str(tmp_path / "b"), None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableVideoError, match="contains no images"):
        open_frame_folder(str(tmp_path / "empty"), None)
