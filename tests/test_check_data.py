"""check_data on real files: all errors are found and reported, good files are kept, a second run continues."""

import errno
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_videos import COUNT, copy, encode, with_cover
from PIL import Image
from video_files import numbered_frames, turn_video, write_folder, write_video

from datasets.preparation.file_check import FileJob, check_file
from datasets.preparation.worker_pool import Outcome
from datasets.readers import VideoFile
from tools.check_data import main

CODECS = {
    "h264.mp4": dict(codec="libx264"),
    "hevc.mkv": dict(codec="libx265", x265_params="log-level=none"),
    "vp9.webm": dict(codec="libvpx-vp9"),
    "mpeg4.avi": dict(codec="mpeg4"),
    "mjpeg.mov": dict(codec="mjpeg", pixels="yuvj420p"),
}


def facts(path, kind="video", total=0, template="img_{:05}.jpg"):
    return check_file(FileJob(str(path), kind, total, template))


def sound_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        for _ in range(5):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def noise(count=24, height=64, width=96):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", CODECS)
def test_whole_videos_have_no_findings(tmp_path, name):
    path = write_video(tmp_path / name, numbered_frames(18, 64, 96), rate=30, **CODECS[name])
    found = facts(path)
    assert (found["frames"], found["broken"], found["odd"]) == (18, [], [])
    assert found["about"]["size"] == "96x64" and found["about"]["fps"] == pytest.approx(30, rel=0.02)


def test_a_video_that_others_made():
    package = importlib.util.find_spec("gradio")
    if package is None:
        pytest.skip("gradio, which ships a video, is not installed")
    path = Path(package.origin).parent / "media_assets" / "videos" / "world.mp4"
    found = facts(path)
    with av.open(str(path)) as container:
        assert found["frames"] == sum(1 for _ in container.decode(video=0)) > 0
    assert found["broken"] == []


def test_odd_videos_are_reported_and_kept(tmp_path):
    frames = numbered_frames(18, 64, 96)
    turned = write_video(tmp_path / "turned.mp4", frames)
    turn_video(turned, 90)
    assert facts(turned)["odd"] == ["rotation metadata: 270 degrees anticlockwise"]
    times = [40 * i + (300 if i > 9 else 0) for i in range(18)]
    varying = facts(write_video(tmp_path / "varying.mp4", frames, times=times))
    # the file rounds its times
    assert [finding[:28] for finding in varying["odd"]] == ["variable frame rate: 40 to 3"]
    pixels = facts(write_video(tmp_path / "full.mp4", frames, pixels="yuv444p"))
    assert pixels["odd"] == ["pixel format yuv444p"]
    assert not (varying["broken"] or pixels["broken"])


def test_broken_videos_are_reported(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    whole = write_video(tmp_path / "whole.mp4", noise())
    content = whole.read_bytes()
    (tmp_path / "half.mp4").write_bytes(content[: len(content) // 2])
    scrambled = bytearray(content)
    scrambled[len(content) // 2 : len(content) // 2 + 4000] = np.random.default_rng(0).bytes(4000)
    (tmp_path / "scrambled.mp4").write_bytes(scrambled)
    said = {
        "absent.mp4": "no such file",
        "empty.mp4": "is empty",
        "text.mp4": "not a video",
        "half.mp4": "",
        "scrambled.mp4": "",
        sound_only(tmp_path / "sound.mp4").name: "sound only",
    }
    for name, words in said.items():
        found = facts(tmp_path / name)
        assert found["broken"] and words in found["broken"][0], name


def test_frame_folders_and_images(tmp_path):
    folder = write_folder(tmp_path / "f", numbered_frames(20, 32, 48))
    assert facts(folder, "frames", 20)["frames"] == 20 and not facts(folder, "frames", 20)["broken"]
    assert "img_00021.jpg is missing" in facts(folder, "frames", 21)["broken"][0]
    Image.new("RGB", (10, 10)).save(folder / "img_00020.jpg")
    assert "different sizes" in facts(folder, "frames", 20)["broken"][0]
    assert facts(folder / "img_00001.jpg", "image", 1)["broken"] == []
    (tmp_path / "x.png").write_text("no picture")
    assert "not an image" in facts(tmp_path / "x.png", "image", 1)["broken"][0]


@pytest.fixture
def listed(tmp_path):
    """A list of good, broken, short, odd and repeated clips, with two extra columns."""
    write_video(tmp_path / "good one.mp4", numbered_frames(18, 32, 48))
    write_video(tmp_path / "short.mp4", numbered_frames(5, 32, 48))
    write_video(tmp_path / "odd.mp4", numbered_frames(18, 32, 48), pixels="yuv444p")
    (tmp_path / "text.mp4").write_text("no video")
    path = tmp_path / "train.csv"
    path.write_text("good one.mp4,0,7\n\ntext.mp4,1,7\nshort.mp4,1,7\nodd.mp4,0,7\ngood one.mp4,1,7\n")
    return path


def lines(path):
    return path.read_text().splitlines()


def test_a_clean_list_of_the_lines_as_they_were(listed, capsys):
    assert main([str(listed), "--data_root", str(listed.parent), "--workers", "1"]) == 1
    output = listed.parent / "checked"
    assert lines(output / "train.csv") == [line for line in lines(listed) if line and "text" not in line]
    problems = lines(output / "train.problems.txt")
    assert [problem.split(": ")[0].rpartition(" ")[2] for problem in problems] == ["3", "4", "5", "6"]
    assert "broken: it is not a video" in problems[0] and "short: 5 frames" in problems[1]
    assert "odd: pixel format yuv444p" in problems[2]
    assert problems[3].endswith("odd: it is already in line 1 with another label")
    assert "1 broken, 1 short, 2 odd, 1 good" in capsys.readouterr().out


def test_a_second_run_looks_at_new_and_changed_files_only(listed, capsys):
    words = [str(listed), "--data_root", str(listed.parent), "--workers", "1"]
    main(words)
    journal = listed.parent / "checked" / "train.facts.jsonl"
    looked_at = [json.loads(line)["path"] for line in lines(journal)]
    assert len(looked_at) == 4
    # as a crash leaves it: one line lost, one cut short
    kept = lines(journal)
    journal.write_text("\n".join([*kept[:2], kept[2][:30]]))
    shutil.copy(listed.parent / "good one.mp4", listed.parent / "text.mp4")
    capsys.readouterr()
    assert main([*words, "--leave_out", "broken", "short"]) == 0
    again = [json.loads(line)["path"] for line in lines(journal)[3:]]
    assert set(again) == set(looked_at[2:]) | {str(listed.parent / "text.mp4")}
    assert "0 broken, 1 short" in capsys.readouterr().out
    clean = lines(listed.parent / "checked" / "train.csv")
    assert clean == [line for line in lines(listed) if line and "short" not in line]


def test_the_time_limit_reaches_the_workers(listed, monkeypatch, capsys):
    def all_too_slow(_, jobs, *, workers, time_limit):
        assert (workers, time_limit) == (1, 7.5)
        return [Outcome(job, None, "it took longer than the time limit") for job in jobs]

    monkeypatch.setattr("tools.check_data.run_jobs", all_too_slow)
    assert main([str(listed), "--data_root", str(listed.parent), "--workers", "1", "--time_limit", "7.5"]) == 1
    assert "took longer than the time limit" in capsys.readouterr().out
    assert not lines(listed.parent / "checked" / "train.csv")


def test_the_command(listed):
    words = [str(listed), "--data_root", str(listed.parent), "--workers", "1"]
    assert subprocess.run([sys.executable, "-m", "tools.check_data", *words]).returncode == 1
    assert lines(listed.parent / "checked" / "train.csv")


def test_lists_that_cannot_be_read(tmp_path, capsys):
    assert main([str(tmp_path / "absent.csv")]) == 2
    assert "absent.csv" in capsys.readouterr().err


def test_the_list_itself_is_never_replaced(listed, capsys):
    before = lines(listed)
    assert main([str(listed), "--data_root", str(listed.parent), "--output", str(listed.parent)]) == 2
    assert "would be replaced" in capsys.readouterr().err and lines(listed) == before


@pytest.fixture
def two_lists(listed, monkeypatch):
    """A good list, a folder beside it, and a decoder that must not be started."""

    def decode(*_, **__):
        pytest.fail("files were decoded before the fault was told")

    monkeypatch.setattr("tools.check_data.run_jobs", decode)
    monkeypatch.chdir(listed.parent)
    (listed.parent / "b").mkdir()
    return listed.parent


def run_two(second, *words):
    return main(["train.csv", second, "--data_root", ".", "--workers", "1", *words])


@pytest.mark.parametrize(("second", "words"), [("b/train.csv", ["--output", "out"]), ("train.txt", [])])
def test_two_lists_whose_results_have_the_same_names_are_refused(two_lists, capsys, second, words):
    (two_lists / second).write_text("odd.mp4 0\n")
    assert run_two(second, *words) == 2
    results = Path(*words[1:] or ["checked"]) / "train"
    assert f"the results of train.csv and {second} would both be {results}.*; rename one" in capsys.readouterr().err
    assert not results.parent.exists()


def test_lists_of_the_same_name_have_their_results_in_their_own_folders(listed, monkeypatch):
    monkeypatch.chdir(listed.parent)
    (listed.parent / "b").mkdir()
    (listed.parent / "b" / "train.csv").write_text("odd.mp4 0\n")
    assert run_two("b/train.csv") == 1
    assert len(lines(Path("checked/train.csv"))) == 4 and lines(Path("b/checked/train.csv")) == ["odd.mp4 0"]


@pytest.mark.parametrize(
    ("second", "content", "words", "said"),
    [
        ("absent.csv", None, [], "absent.csv does not exist"),
        ("val.csv", "odd.mp4 0\nshort.mp4\n", [], "line 2: there is no label"),
        (
            "val.csv",
            "gone.mp4 0\n",
            [],
            "none of its files exists; line 1: ./gone.mp4 does not exist; paths are",
        ),
        ("val.csv", "frames 3 0\n", [], "val.csv, line 1: ./frames has no frames named img_{:05}.jpg"),
        ("b/val.csv", "odd.mp4 0\n", ["--output", "b"], "b/val.csv, which is one of the lists, would be replaced"),
        ("checked/train.csv", "odd.mp4 0\n", [], "checked/train.csv, which is one of the lists, would be replaced"),
        ("b/val.csv", "odd.mp4 0\n", ["--output", "out"], "differ; the lists belong to different classes"),
        ("val.csv", "odd.mp4 0\n", ["--output", "text.mp4"], "text.mp4 is a file; name another folder with --output"),
        ("b/val.csv", "odd.mp4 0\n", [], "b/checked/val.facts.jsonl"),
        ("val.csv", "odd.mp4 0\n", ["--split", ", "], "--split must be one character or one of space, tab"),
    ],
)
def test_what_is_wrong_with_a_later_list_is_told_before_anything_is_decoded(
    two_lists, capsys, second, content, words, said
):
    write_folder(two_lists / "frames", numbered_frames(3, 32, 48), "f_{:03}.jpg")
    for folder, name in ((two_lists, "sea"), (two_lists / "b", "land")):
        (folder / "labels.txt").write_text(f"{name}\nsky\n")
    # no file of results can be opened there
    (two_lists / "b" / "checked" / "val.facts.jsonl").mkdir(parents=True)
    (two_lists / "checked").mkdir()
    if content is not None:
        (two_lists / second).write_text(content)
    before = {path: path.read_bytes() for path in two_lists.rglob("*.csv")}
    assert run_two(second, *words) == 2
    assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in two_lists.rglob("*.csv")} == before


def test_what_many_clips_have_in_common_is_reported_once(tmp_path, capsys):
    clips = [f"{i}.mp4 0" for i in range(7)]
    for i in range(6):
        write_video(tmp_path / f"{i}.mp4", numbered_frames(18 + i, 32, 48), pixels="yuv444p")
    write_video(tmp_path / "6.mp4", numbered_frames(5, 32, 48), pixels="yuv444p")
    (tmp_path / "train.csv").write_text("\n".join(clips) + "\n")
    assert main([str(tmp_path / "train.csv"), "--data_root", str(tmp_path), "--workers", "1"]) == 0
    problems = lines(tmp_path / "checked" / "train.problems.txt")
    assert len(problems) == 2 and problems[0].startswith("7 of 7 clips: pixel format yuv444p, the first in ")
    assert problems[1].endswith("6.mp4: short: 5 frames")
    assert problems[0] in capsys.readouterr().out


def test_pictures_that_differ_from_those_decoded_in_order_are_reported(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", numbered_frames(18, 64, 96))
    read = VideoFile.read
    monkeypatch.setattr(VideoFile, "read", lambda self, indices: read(self, [max(0, i - 1) for i in indices]))
    assert "differ when read by number and when decoded in order" in facts(path)["broken"][0]


def test_stamps_out_of_order_are_no_variable_rate(tmp_path):
    for codec in ("mpeg4", "libx264"):
        found = facts(encode(tmp_path / f"{codec}.avi", codec))
        assert (found["broken"], found["odd"], found["about"]["fps"]) == ([], [], 25)


def test_the_stream_that_is_shown_is_judged(tmp_path):
    found = facts(with_cover(encode(tmp_path / "v.mp4"), tmp_path / "v.mkv"))
    assert (found["frames"], found["broken"]) == (COUNT, [])
    assert found["odd"] == ["2 video streams, number 2 is used"] and found["about"]["codec"] == "h264"


def test_mirrors_are_reported(tmp_path):
    matrix = (-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    found = facts(copy(encode(tmp_path / "v.mp4"), tmp_path / "m.mp4", matrix=matrix))
    assert found["broken"] == [] and found["odd"][0].endswith("mirrored")


def test_several_lists_and_byte_copies_across_them(tmp_path, capsys):
    """The classes of both lists are reported, and a test clip that is a copy of a training clip is found."""
    for i in range(3):
        write_video(tmp_path / f"{i}.mp4", numbered_frames(18, 64, 96) // (i + 1))
    shutil.copy(tmp_path / "0.mp4", tmp_path / "COPY.MP4")
    shutil.copy(tmp_path / "1.mp4", tmp_path / "again.mp4")
    (tmp_path / "train.csv").write_text("0.mp4 0\n1.mp4 1\nagain.mp4 1\n")
    (tmp_path / "test.csv").write_text("COPY.MP4 0\n2.mp4 1\n1.mp4 1\n")
    (tmp_path / "labels.txt").write_text("left\nright\n")
    lists = [str(tmp_path / "train.csv"), str(tmp_path / "test.csv")]
    assert main([*lists, "--data_root", str(tmp_path), "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    train, test = (f"{path}, line" for path in lists)
    assert f"{train} 3: {tmp_path / 'again.mp4'}: odd: it is a byte copy of {train} 2" in printed
    assert f"{test} 1: {tmp_path / 'COPY.MP4'}: odd: it is a byte copy of {train} 1" in printed
    assert printed.count("byte copy") == 2
    assert f"1 files are in both {lists[0]} and {lists[1]}" in printed
    assert (tmp_path / "checked" / "labels.txt").read_text() == "left\nright\n"
    assert (tmp_path / "checked" / "test.csv").read_text() == (tmp_path / "test.csv").read_text()


def test_lists_of_several_labels_and_of_numbers_are_checked_and_written_as_they_are(tmp_path, capsys):
    write_video(tmp_path / "a.mp4", numbered_frames(20))
    write_video(tmp_path / "b.mp4", numbered_frames(21))
    (tmp_path / "several.csv").write_text("a.mp4 0;2\nb.mp4\ngone.mp4 2\n")
    words = ["--data_root", str(tmp_path), "--workers", "1"]
    assert main([str(tmp_path / "several.csv"), *words, "--task", "multilabel"]) == 1
    assert (tmp_path / "checked" / "several.csv").read_text() == "a.mp4 0;2\nb.mp4\n"
    told = capsys.readouterr().out
    assert "1 of 3 clips have no label" in told and "1 of 3 classes have no clip: 1" in told
    (tmp_path / "numbers.csv").write_text("a.mp4 0.5;3\nb.mp4 -1.5;4\n")
    assert main([str(tmp_path / "numbers.csv"), *words, "--task", "regression"]) == 0
    told = capsys.readouterr().out
    assert "target 0: -1.5 to 0.5, mean -0.5" in told and "target 1: 3 to 4, mean 3.5" in told
    assert main([str(tmp_path / "numbers.csv"), *words]) == 2
    assert "--task regression" in capsys.readouterr().err


def test_a_disk_that_fills_up_is_told(tmp_path, capsys, monkeypatch):
    write_video(tmp_path / "a.mp4", numbered_frames(20))
    (tmp_path / "train.csv").write_text("a.mp4 0\n")

    def full(path, lines):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("tools.check_data._write", full)
    assert main([str(tmp_path / "train.csv"), "--data_root", str(tmp_path), "--workers", "1"]) == 2
    assert f"No space left on device: '{tmp_path / 'checked' / 'train.csv'}'" in capsys.readouterr().err
