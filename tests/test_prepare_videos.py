"""Prepared videos: the same frame numbers, smaller and fast to seek; nothing is lost or done twice."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict

import av
import numpy as np
import pytest
from PIL import Image
from video_files import frame_numbers, numbered_frames, turn_video, write_video

from datasets.annotations import read_list
from datasets.preparation.reencode import Preparation, VideoJob, prepare_video, target_size
from datasets.readers import FrameFolder, VideoFile
from tools.prepare_videos import main


def smooth(count=20, height=96, width=160):
    """Grey clouds that move; colours would show the halved resolution of colour in any video, not our doing."""
    cells = np.random.default_rng(0).integers(30, 226, (8, 12, 1), dtype=np.uint8).repeat(3, axis=2)
    picture = np.asarray(Image.fromarray(cells).resize((width + 2 * count, height), Image.Resampling.BICUBIC))
    return np.stack([picture[:, 2 * i : 2 * i + width] for i in range(count)])


def run(folder, *words):
    where = ["--data_root", str(folder), "--output", str(folder / "out"), "--workers", "1", "--short_side", "48"]
    return main([str(folder / "train.csv"), *where, *words])


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a b.avi", numbered_frames(20, 64, 96), codec="mpeg4", b="4M")
    write_video(tmp_path / "c.mp4", numbered_frames(30, 96, 64), g=250)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "train.csv").write_text("clips/a b.avi 1\ntext.mp4 1\nc 0\n")
    (tmp_path / "labels.txt").write_text("sea\nland\n")
    return tmp_path


def test_every_frame_keeps_its_number_and_a_key_frame_is_near(listed, capsys):
    assert run(listed, "--crf", "5") == 1
    out = listed / "out"
    records, kind = read_list(out / "train.csv")
    assert [(r.path, r.target) for r in records] == [("clips/a b.mp4", 1), ("c.mp4", 0)] and kind == "video"
    said = capsys.readouterr().out
    assert f"not prepared: {listed / 'text.mp4'}" in said and "train.csv: 2 of 3 videos" in said
    sources = ["clips/a b.avi", "c.mp4"]
    for record, source, size, count in zip(records, sources, [(48, 72), (72, 48)], [20, 30], strict=True):
        path = out / record.path
        frames = VideoFile(str(path)).read(range(count))
        assert len(VideoFile(str(path))) == count and frames.shape[1:3] == size
        original = VideoFile(str(listed / source)).read(range(count))
        # neighbours are 2 or 3 grey levels apart
        assert np.abs(frames.mean((1, 2, 3)) - original.mean((1, 2, 3))).max() < 1.5
        with av.open(str(path)) as container:
            keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
            assert [i for i, key in enumerate(keys) if key] == list(range(0, count, 4))
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]
    assert (out / "labels.txt").read_text() == "sea\nland\n"


def test_frame_folders(listed):
    assert run(listed, "--form", "frames") == 1
    records, kind = read_list(listed / "out" / "train.csv", data_root=str(listed / "out"))
    assert kind == "frames" and [(r.total_frames, r.target) for r in records] == [(20, 1), (30, 0)]
    frames = FrameFolder(records[1].path, 30).read(range(30))
    assert frames.shape[1:] == (72, 48, 3) and frame_numbers(frames) == list(range(30))


def test_pictures_are_those_of_the_reader_resized(tmp_path):
    frames = smooth()
    source = write_video(tmp_path / "v.mp4", frames, crf=10)
    original = VideoFile(str(source)).read(range(20))
    expected = np.stack([Image.fromarray(f).resize((80, 48), Image.Resampling.BICUBIC) for f in original]).astype(int)
    for form, most in (("videos", 3.0), ("frames", 1.5)):
        target = tmp_path / form
        assert prepare_video(VideoJob(str(source), target, Preparation(form, 48))) == 20
        found = VideoFile(str(target)) if form == "videos" else FrameFolder(str(target), 20)
        assert np.abs(found.read(range(20)) - expected).mean() < most
    shifted = np.abs(expected[1:] - expected[:-1]).mean()
    assert shifted > 3.5, "a wrong frame would be seen"


def test_turned_videos_are_written_upright(tmp_path):
    source = write_video(tmp_path / "v.mp4", smooth())
    turn_video(source, 90)
    shown = VideoFile(str(source)).read([0])
    prepare_video(VideoJob(str(source), tmp_path / "p.mp4", Preparation(short_side=96)))
    with av.open(str(tmp_path / "p.mp4")) as container:
        frame = next(container.decode(video=0))
    assert frame.rotation == 0 and (frame.height, frame.width) == shown.shape[1:3]


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((720, 1280), 256, (256, 456)),
        ((1280, 720), 256, (456, 256)),
        ((272, 640), 256, (256, 602)),
        ((240, 320), 256, (240, 320)),
        ((241, 321), 256, (240, 320)),
        ((1, 9), 256, (2, 8)),
    ],
)
def test_sizes_are_even_and_never_grow_but_to_be_even(size, short_side, expected):
    assert target_size(*size, short_side) == expected


def test_a_second_run_does_only_what_is_missing_or_changed(listed):
    run(listed)
    kept, changed = listed / "out" / "c.mp4", listed / "out" / "clips" / "a b.mp4"
    stamps = [path.stat().st_mtime_ns for path in (kept, changed)]
    write_video(listed / "clips" / "a b.avi", numbered_frames(10, 64, 96), codec="mpeg4", b="4M")
    write_video(listed / "text.mp4", numbered_frames(12, 64, 96))
    assert run(listed) == 0
    assert kept.stat().st_mtime_ns == stamps[0] and changed.stat().st_mtime_ns > stamps[1]
    assert len(VideoFile(str(changed))) == 10
    assert len(read_list(listed / "out" / "train.csv")[0]) == 3


@pytest.mark.parametrize("form", ["videos", "frames"])
def test_a_folder_of_an_earlier_version_is_told_and_redone_once(listed, capsys, form):
    (listed / "text.mp4").unlink()
    (listed / "train.csv").write_text("clips/a b.avi 1\nc 0\n")
    assert run(listed, "--form", form) == 0
    settings, target = listed / "out" / "prepared.json", listed / "out" / ("c.mp4" if form == "videos" else "c")
    earlier = json.loads(settings.read_text())
    assert earlier.pop("version") == 2
    settings.write_text(json.dumps(earlier))
    # as if written an hour ago, wrongly, after its source
    for path in (listed / "c.mp4", target):
        os.utime(path, (time.time() - 3600, time.time() - 3600))
    wrong = target.stat().st_mtime_ns
    capsys.readouterr()
    assert run(listed, "--form", form) == 0
    said = capsys.readouterr().out
    assert "prepared by an earlier version" in said and "are already done" not in said
    assert target.stat().st_mtime_ns > wrong
    assert run(listed, "--form", form) == 0
    said = capsys.readouterr().out
    assert "earlier version" not in said and "2 of 2 are already done" in said
    # what a renewal that was stopped has not reached: newer than its source, older than the renewal
    os.utime(target, (time.time() - 1800, time.time() - 1800))
    assert run(listed, "--form", form) == 0
    said = capsys.readouterr().out
    assert "earlier version" not in said and "1 of 2 are already done" in said
    settings.write_text(json.dumps(earlier | {"version": 3}))
    assert run(listed, "--form", form) == 2 and "a later version" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "words", "said"),
    [
        ("a.mp4 0\na.avi 0\n", [], "would both become"),
        ("a 30 0\nb 30 1\n", [], "only videos can be prepared"),
        ("a.mp4\n", [], "line 1"),
        ("a.mp4 0\n", ["--split", "pipe"], "--split must be one character or one of space, tab"),
        ("P01.mp4 0\nP01/clip1.mp4 0\n", ["--form", "frames"], "rename one, or choose --form videos"),
        ("P01/deep/clip1.mp4 0\nP01.mp4 0\n", ["--form", "frames"], "rename one, or choose --form videos"),
    ],
)
def test_lists_that_do_not_serve_are_refused(tmp_path, capsys, lines, words, said):
    (tmp_path / "train.csv").write_text(lines)
    assert run(tmp_path, *words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_video_beside_a_folder_of_its_name_becomes_a_video(tmp_path):
    (tmp_path / "P01").mkdir()
    for name in ("P01.mp4", "P01/clip1.mp4"):
        write_video(tmp_path / name, numbered_frames(8, 64, 96))
    (tmp_path / "train.csv").write_text("P01.mp4 0\nP01/clip1.mp4 1\n")
    assert run(tmp_path, "--form", "videos") == 0
    assert [record.path for record in read_list(tmp_path / "out" / "train.csv")[0]] == ["P01.mp4", "P01/clip1.mp4"]


@pytest.mark.parametrize("form", ["videos", "frames"])
def test_a_video_that_was_deleted_is_reported_and_left_out_of_a_repeat(listed, capsys, form):
    run(listed, "--form", form)
    (listed / "c.mp4").unlink()
    capsys.readouterr()
    assert run(listed, "--form", form) == 1
    said = capsys.readouterr().out
    assert f"not prepared: {listed / 'c'}: " in said and "train.csv: 1 of 3 videos" in said
    assert [record.target for record in read_list(listed / "out" / "train.csv")[0]] == [1]


def test_an_output_that_is_a_file_is_refused(listed, capsys):
    (listed / "out").write_text("mine")
    assert run(listed) == 2
    assert f"{listed / 'out'} is a file; name another folder with --output" in capsys.readouterr().err
    assert (listed / "out").read_text() == "mine"


def test_an_output_that_cannot_be_written_is_told(listed, capsys):
    (listed / "out" / "labels.txt").mkdir(parents=True)
    settings = asdict(Preparation(short_side=48)) | {"version": 2}
    (listed / "out" / "prepared.json").write_text(json.dumps(settings))
    assert run(listed) == 2
    assert str(listed / "out" / "labels.txt") in capsys.readouterr().err
    assert not (listed / "out" / "c.mp4").exists()


def test_settings_that_were_damaged_are_told_by_name(listed, capsys):
    (listed / "out").mkdir()
    (listed / "out" / "prepared.json").write_text("{")
    assert run(listed) == 2
    assert f"{listed / 'out' / 'prepared.json'} is not JSON" in capsys.readouterr().err


def test_folders_that_do_not_serve_are_refused(listed, capsys):
    run(listed)
    assert run(listed, "--gop", "8") == 2
    assert "was prepared with" in capsys.readouterr().err
    assert main([str(listed / "train.csv"), "--data_root", str(listed), "--output", str(listed)]) == 2
    assert "text.mp4 would be overwritten" in capsys.readouterr().err
    (listed / "other").mkdir()
    (listed / "other" / "x").touch()
    assert main([str(listed / "train.csv"), "--data_root", str(listed), "--output", str(listed / "other")]) == 2
    assert "contains other files" in capsys.readouterr().err


@pytest.mark.parametrize(("first", "then"), [("P01.mp4", "P01/clip1.mp4"), ("P01/clip1.mp4", "P01.mp4")])
def test_frames_of_an_earlier_list_are_not_nested_with_those_of_another(tmp_path, capsys, first, then):
    (tmp_path / "P01").mkdir()
    for name in (first, then):
        write_video(tmp_path / name, numbered_frames(4))
    words = ["--data_root", str(tmp_path), "--output", str(tmp_path / "out"), "--form", "frames", "--workers", "1"]
    (tmp_path / "train.csv").write_text(f"{first} 0\n")
    assert main([str(tmp_path / "train.csv"), *words]) == 0
    (tmp_path / "test.csv").write_text(f"{then} 0\n")
    assert main([str(tmp_path / "test.csv"), *words]) == 2
    assert "choose another --output, or --form videos" in capsys.readouterr().err
    assert len(list((tmp_path / "out" / first).with_suffix("").iterdir())) == 4
    assert main([str(tmp_path / "train.csv"), *words]) == 0, "the same list can be continued"


def test_the_benchmark_compares_the_same_pictures(tmp_path):
    words = ["--output", str(tmp_path), "--height", "96", "--width", "128", "--frames", "24"]
    done = subprocess.run([sys.executable, "-m", "benchmarks.prepared", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == ["original"] + ["key"] * 3 + ["JPEG"]


def test_the_command(listed):
    words = [str(listed / "train.csv"), "--data_root", str(listed), "--output", str(listed / "out"), "--workers", "1"]
    done = subprocess.run([sys.executable, "-m", "tools.prepare_videos", *words], capture_output=True, text=True)
    assert done.returncode == 1 and "2 of 3 videos" in done.stdout and "MiB before" in done.stdout


def test_several_labels_are_carried_over(listed):
    (listed / "train.csv").write_text("clips/a b.avi 0;1\nc\n")
    assert run(listed, "--task", "multilabel") == 0
    records, _ = read_list(listed / "out" / "train.csv", task="multilabel")
    assert [(record.path, record.target) for record in records] == [("clips/a b.mp4", (0, 1)), ("c.mp4", ())]
