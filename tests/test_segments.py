"""Lists of segments: their forms and faults, and the frames that they stand for."""

from fractions import Fraction

import numpy as np
import pytest
from video_files import frame_numbers, numbered_frames, write_video

from datasets.annotations import FrameFolderRecord, ListFileError, VideoRecord, read_list
from datasets.list_writing import format_list
from datasets.readers import UnreadableVideoError, VideoFile
from datasets.readers.part import frame_range
from datasets.segments import Segment, find_gaps, find_overlaps

SECONDS = Segment(1.5, 4.0)
FRAMES = Segment(10, 30, "frames")


def read(tmp_path, text, **settings):
    path = tmp_path / "list.csv"
    path.write_text(text)
    return read_list(path, **settings)


@pytest.mark.parametrize(
    ("text", "settings", "record"),
    [
        ("path,start,end,label\na b.mp4,1.5,4,3\n", {}, VideoRecord("a b.mp4", 3, 2, SECONDS)),
        ("label path end start extra\n3 a.mp4 4.0 1.5\n", {}, VideoRecord("a.mp4", 3, 2, SECONDS)),
        ("Path\tStart_frame\tEnd_frame\tLabel\na.mp4\t10\t30\t3\n", {}, VideoRecord("a.mp4", 3, 2, FRAMES)),
        ("path,start,end,label\na.mp4,,,3\n", {}, VideoRecord("a.mp4", 3, 2)),
        ("a.mp4 1.5 4 3\n", {"segment_unit": "seconds"}, VideoRecord("a.mp4", 3, 1, SECONDS)),
        ('"a b.mp4" 10 30 3\n', {"segment_unit": "frames"}, VideoRecord("a b.mp4", 3, 1, FRAMES)),
        (
            "path,total_frames,start_frame,end_frame,label\na,48,10,30,3\n",
            {},
            FrameFolderRecord("a", 48, 3, 2, FRAMES),
        ),
    ],
)
def test_forms_of_lists(tmp_path, text, settings, record):
    records, kind = read(tmp_path, text, **settings)
    assert records == [record]
    assert kind == ("frames" if isinstance(record, FrameFolderRecord) else "video")


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("path,start,label\na.mp4,1,3\n", {}, ["line 1", "start and end"]),
        ("path,start,end,label\na.mp4,1,0.5,3\n", {}, ["line 2", "ends at 0.5", "start at 1", "path,start,end,label"]),
        ("path,start,end,label\na.mp4,2,2,3\n", {}, ["line 2", "not after its start"]),
        ("path,start,end,label\na.mp4,-1,2,3\n", {}, ["line 2", "start should be a number of seconds, 0 or more"]),
        ("path,start,end,label\na.mp4,1,inf,3\n", {}, ["line 2", "end should be"]),
        ("path,start,end,label\na.mp4,1,,3\n", {}, ["line 2", "end should be"]),
        ("path,start,end,label\na.mp4,1,2,dog\n", {}, ["line 2", 'label should be a whole number, not "dog"']),
        ("path,start,end,label\na.mp4,1,2,3,4\n", {}, ["line 2", "5 columns instead of 4"]),
        ("path,start_frame,end_frame,label\na.mp4,1.5,2,3\n", {}, ["line 2", "start_frame", "whole number"]),
        ("path,total_frames,start_frame,end_frame,label\na,20,5,21,3\n", {}, ["line 2", "frame 21", "has 20"]),
        ("path,total_frames,start,end,label\na,20,1,2,3\n", {}, ["line 1", "folders of frames have no seconds"]),
        ("path,start,end,label\na.mp4,1,2,3\n", {"segment_unit": "frames"}, ["line 1", "--segment_unit"]),
        ("path,start,end,label\n", {}, ["no line after its header"]),
    ],
)
def test_faults_are_told_by_line(tmp_path, text, settings, said):
    with pytest.raises(ListFileError) as error:
        read(tmp_path, text, **settings)
    for part in ["list.csv", *said]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    "records",
    [
        [VideoRecord("a, b.mp4", 3, 2, Segment(0.1, 12345.678901)), VideoRecord("c.mp4", 0, 3)],
        [FrameFolderRecord('a "b"', 48, 3, 2, FRAMES), FrameFolderRecord("c", 9, 1, 3)],
    ],
)
def test_written_lists_are_read_back(tmp_path, records):
    kind = "frames" if isinstance(records[0], FrameFolderRecord) else "video"
    assert read(tmp_path, format_list(records, kind)) == (records, kind)


def test_lists_of_two_units_are_not_written():
    with pytest.raises(ListFileError, match="all be in seconds"):
        format_list([VideoRecord("a.mp4", 0, 1, SECONDS), VideoRecord("a.mp4", 0, 2, FRAMES)], "video")


def test_overlaps_and_gaps():
    spans = {"a.mp4": [(5, 8), (0, 2), (1, 6), (9, 10)], "b.mp4": [(0, 3), (3, 4)]}
    records = [
        VideoRecord(path, 0, line, Segment(*span))
        for path, of_file in spans.items()
        for line, span in enumerate(of_file, 1)
    ]
    records.append(VideoRecord("c.mp4", 0, 1))
    assert [(one.line, two.line) for one, two in find_overlaps(records)] == [(2, 3), (3, 1)]
    assert [(record.path, record.line, str(gap)) for record, gap in find_gaps(records)] == [("a.mp4", 4, "8 to 9 s")]


@pytest.fixture(scope="module")
def varying(tmp_path_factory):
    """Twenty frames: ten at 10 frames a second, then ten at 5."""
    times = [*range(0, 1000, 100), *range(1000, 3000, 200)]
    return write_video(tmp_path_factory.mktemp("rates") / "vfr.mp4", numbered_frames(20), times=times)


@pytest.mark.parametrize(("start", "end", "first", "last"), [(0, 1, 0, 9), (1, 2, 10, 14), (0.5, 2.4, 5, 16)])
def test_frames_of_a_segment_follow_the_times_at_which_they_are_shown(varying, start, end, first, last):
    reader = VideoFile(str(varying))
    low, high = frame_range(reader, Segment(start, end))
    assert frame_numbers(reader.read(range(low, high))) == list(range(first, last + 1))


def test_adjacent_segments_share_no_frame_and_leave_none_out(tmp_path):
    reader = VideoFile(str(write_video(tmp_path / "a.mp4", numbered_frames(60), rate=Fraction(30000, 1001))))
    borders = np.linspace(0, 60 * 1.001 / 30, 8).round(2)
    ranges = [frame_range(reader, Segment(*pair)) for pair in zip(borders[:-1], borders[1:], strict=True)]
    assert [i for low, high in ranges for i in range(low, high)] == list(range(60))


@pytest.mark.parametrize("segment", [Segment(1, 5), Segment(4, 5), Segment(0, 21, "frames")])
def test_a_segment_beyond_the_end_is_refused(varying, segment):
    with pytest.raises(UnreadableVideoError, match="ends after the video, which has (2.95 s|20 frames)"):
        frame_range(VideoFile(str(varying)), segment)
