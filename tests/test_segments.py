"""Lists of segments: their forms and faults, and the frames that they stand for."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from engine_standins import CLASSES, TinyModel, classify
from video_files import frame_numbers, numbered_frames, write_video

from datasets.annotations import FrameFolderRecord, ListFileError, VideoRecord, read_list
from datasets.arguments import DataSettings
from datasets.build import build_dataset, build_loader
from datasets.list_writing import format_list
from datasets.readers import UnreadableVideoError, VideoFile
from datasets.readers.part import frame_range
from datasets.segments import Segment, find_gaps, find_overlaps
from engines.distributed import Context
from engines.evaluate import evaluate
from engines.list_check import check_data as check_run
from inference.sources import expand_sources
from tools.check_data import main as check_data
from tools.prepare_videos import main as prepare_videos

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
        ("video,start,end,label\na.mp4,1,2,3\n", {}, ["line 1", "should name path, label"]),
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


@pytest.mark.parametrize(
    ("text", "task", "target"),
    [
        ("path,start,end,label\na.mp4,1.5,4,3;17\n", "multilabel", (3, 17)),
        ("path,start,end,label\na.mp4,1.5,4,\n", "multilabel", ()),
        ("path;start;end;label\na.mp4;1.5;4;3;17\n", "multilabel", (3, 17)),
        ("path start end label\na.mp4 1.5 4 -0.25;7\n", "regression", (-0.25, 7.0)),
    ],
)
def test_segments_have_the_labels_of_every_task(tmp_path, text, task, target):
    records, _ = read(tmp_path, text, task=task)
    assert records == [VideoRecord("a.mp4", target, 2, SECONDS)]
    assert read(tmp_path, format_list(records, "video"), task=task)[0] == records


def train_and_test(folder, name):
    """Two epochs of a small network on a list: its weights, and the outputs of a test."""
    size = {"num_frames": 4, "sampling_rate": 2, "input_size": 16, "test_num_segment": 2, "test_num_crop": 1}
    loading = {"batch_size": 3, "num_workers": 0, "read_timeout": 0, "data_root": str(folder)}
    lists = {f"{split}_list": str(folder / f"{name}.csv") for split in ("train", "val", "test")}
    settings = DataSettings(**size, **loading, **lists, nb_classes=CLASSES)
    train = build_loader(build_dataset("train", settings), "train", settings)
    torch.manual_seed(0)
    objective = classify(TinyModel()).train()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    for epoch in range(2):
        train.sampler.set_epoch(epoch)
        for batch in train:
            objective.zero_grad()
            objective(objective.prepare(batch, torch.device("cpu")))["loss"].backward()
            optimizer.step()
    test = build_loader(build_dataset("test", settings), "test", settings)
    return objective.state_dict(), evaluate(objective, test, Context())


def test_segments_of_joined_videos_train_and_test_as_the_cut_clips(tmp_path):
    rng = np.random.default_rng(0)
    clips = [rng.integers(0, 256, (count, 24, 32, 3), dtype=np.uint8) for count in (30, 17, 25, 40)]
    lossless = {"crf": 0, "g": 7}
    write_video(tmp_path / "film.mp4", np.concatenate(clips), **lossless)
    borders = np.cumsum([0, *map(len, clips)])
    whole, seconds = [], ["path,start,end,label"]
    for i, clip in enumerate(clips):
        write_video(tmp_path / f"{i}.mp4", clip, **lossless)
        whole.append(f"{i}.mp4 {i % CLASSES}")
        seconds.append(f"film.mp4,{borders[i] / 25},{borders[i + 1] / 25},{i % CLASSES}")
    frames = [f"film.mp4 {borders[i]} {borders[i + 1]} {i % CLASSES}" for i in range(len(clips))]
    for name, lines in (
        ("cut", whole),
        ("seconds", seconds),
        ("frames", ["path start_frame end_frame label", *frames]),
    ):
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    weights, tested = train_and_test(tmp_path, "cut")
    for name in ("seconds", "frames"):
        again, tested_again = train_and_test(tmp_path, name)
        assert all(torch.equal(again[key], weights[key]) for key in weights)
        assert np.array_equal(tested_again.outputs, tested.outputs) and tested_again.figures == tested.figures
    (tmp_path / "seconds.csv").write_text((tmp_path / "seconds.csv").read_text().replace("0.0,", "0.08,"))
    control, _ = train_and_test(tmp_path, "seconds")
    assert not all(torch.equal(control[key], weights[key]) for key in weights)


def test_classes_are_balanced_by_their_segments(tmp_path):
    write_video(tmp_path / "film.mp4", numbered_frames(60))
    lines = [f"film.mp4,{10 * i},{10 * i + 10},{int(i == 4)}" for i in range(6)]
    (tmp_path / "train.csv").write_text("\n".join(["path,start_frame,end_frame,label", *lines]) + "\n")
    loading = {"batch_size": 2, "num_workers": 0, "read_timeout": 0, "num_frames": 2, "input_size": 16}
    lists = {"train_list": str(tmp_path / "train.csv"), "data_root": str(tmp_path)}
    settings = DataSettings(**loading, **lists, nb_classes=CLASSES, sampler="balanced")
    dataset = build_dataset("train", settings)
    drawn = [dataset.records[key.index].target for key in build_loader(dataset, "train", settings).sampler]
    assert sorted(drawn) == [0, 0, 0, 1, 1, 1]


def test_segments_are_checked_by_the_times_of_the_frames(varying, tmp_path, capsys):
    spans = {2: (0, 1), 3: (1, 2), 4: (2, 2.9), 5: (0, 2.9)}  # 10, 5, 5 and 20 frames; 6.8 a second on average
    rows = [f"{varying.name},{start},{end},{line % 2}\n" for line, (start, end) in spans.items()]
    (tmp_path / "train.csv").write_text("path,start,end,label\n" + "".join(rows))
    words = [str(tmp_path / "train.csv"), "--data_root", str(varying.parent), "--workers", "1", "--min_frames", "8"]
    check_data([*words, "--output", str(tmp_path / "checked")])
    told = capsys.readouterr().out
    assert re.findall(r"line (\d): [^:]*: short: (\d+ frames)", told) == [("3", "5 frames"), ("4", "5 frames")]


@pytest.fixture
def film(tmp_path):
    """Two films of 60 frames at 25 a second and a list of segments, of which line 5 reaches beyond the end."""
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, numbered_frames(60), title=name)
    spans = ["a.mp4,0,0.8,0", "a.mp4,0.8,1.6,1", "a.mp4,1.52,2.4,0", "b.mp4,2,4,1", "b.mp4,0.4,0.6,0", "b.mp4,0,2.4,1"]
    (tmp_path / "train.csv").write_text("path,start,end,label\n" + "\n".join([*spans, "b.mp4,0,2.4,0"]) + "\n")
    return tmp_path


def test_segments_are_checked_by_line(film, capsys):
    words = [str(film / "train.csv"), "--data_root", str(film), "--workers", "1", "--gaps", "--min_frames", "8"]
    assert check_data(words) == 1
    told = {line.partition(": ")[0].rpartition(" ")[2]: line for line in capsys.readouterr().out.splitlines()}
    assert "overlaps with 0.8 to 1.6 s of line 3 with another label" in told["4"]
    assert "broken: its segment 2 to 4 s ends after the video, which has 2.40 s" in told["5"]
    assert "5 frames" in told["6"] and "short" in told["6"]
    assert "it is already in line 7 with another label" in told["8"]
    assert {"2", "3"}.isdisjoint(told)
    lines = (film / "train.csv").read_text().splitlines()
    assert (film / "checked" / "train.csv").read_text().splitlines() == lines[:4] + lines[5:]
    (film / "gaps.csv").write_text("path,start,end,label\na.mp4,0.4,0.8,0\na.mp4,1,2.4,0\n")
    assert check_data([str(film / "gaps.csv"), "--data_root", str(film), "--workers", "1", "--gaps"]) == 0
    said = capsys.readouterr().out
    assert "line 2: " in said and "no segment covers 0 to 0.4 s" in said and "no segment covers 0.8 to 1 s" in said


def test_a_dry_run_names_segments_beyond_the_end(film):
    check = check_run(DataSettings(train_list=str(film / "train.csv"), data_root=str(film), read_timeout=0), ["train"])
    assert len(check.faults) == 1 and "train.csv, line 5: " in check.faults[0]
    assert "b.mp4 has 2.40 s, but the segment is 2 to 4 s" in check.faults[0]


@pytest.mark.parametrize("form", ["videos", "frames"])
def test_prepared_segments_show_the_same_frames(film, capsys, form):
    out = film / "out"
    words = ["--data_root", str(film), "--output", str(out), "--workers", "1", "--form", form, "--crf", "1"]
    assert prepare_videos([str(film / "train.csv"), *words]) == 1
    assert "line 5: " in capsys.readouterr().out
    records, _ = read_list(out / "train.csv", data_root=str(out))
    assert [record.target for record in records] == [0, 1, 0, 0, 1, 0]
    ranges = [(0, 20), (20, 40), (38, 60), (10, 15), (0, 60), (0, 60)]
    settings = DataSettings(train_list=str(out / "train.csv"), data_root=str(out))
    dataset = build_dataset("train", settings)
    for record, expected in zip(dataset.records, ranges, strict=True):
        reader = dataset.open_record(record)
        numbers = frame_numbers(reader.read(range(len(reader))))
        # Encoding shifts single grey levels.
        assert len(numbers) == expected[1] - expected[0] and abs(np.mean(numbers) - np.mean(range(*expected))) < 0.5


def test_inference_says_that_it_reads_the_videos_of_segments_as_wholes(film, caplog):
    assert expand_sources([str(film / "train.csv")]) == ["a.mp4", "b.mp4"]
    assert "list of segments, but its videos are read as wholes" in caplog.text
