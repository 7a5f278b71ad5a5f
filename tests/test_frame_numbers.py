"""Frame folders of any first number and names: list maker, data sets, checks and inference agree, or say why."""

import logging
import shlex

import numpy as np
import pytest
from data_flags import data_flags
from PIL import Image
from video_files import frame_numbers, numbered_frames, write_folder

from datasets.annotations import read_list
from datasets.build import build_dataset
from datasets.frame_names import FrameNamesError
from datasets.readers import UnreadableVideoError
from engines.list_check import check_data
from inference.sources import opener_of
from tools.check_data import main as check_data_tool
from tools.make_lists import main as make_lists


def write_frames(folder, count=12, first=1, template="img_{:05}.png"):
    """Frames whose grey level tells their place in the clip, 0, 1, ..., in files numbered from `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(numbered_frames(count, 32, 40)):
        Image.fromarray(frame).save(folder / template.format(first + i))
    return folder


def list_maker(root):
    return make_lists(["folder", str(root), "--output", str(root / "lists"), "--val_share", "0"])


def flags_told(said):
    words = shlex.split(next(line for line in said.splitlines() if line.startswith("train with:")))
    return words[words.index("--data_path") : words.index("--output_dir")]


def data_set(root, *flags, mode="train"):
    return build_dataset(mode, data_flags(root, "--filename_tmpl", "img_{:05}.png", *flags))


def shown(dataset):
    """Which frames of each clip are read when all are asked for."""
    return [frame_numbers(dataset.open_record(r).read(range(r.total_frames))) for r in dataset.records]


@pytest.mark.parametrize("first", [0, 1, 37])
def test_the_list_maker_and_all_readers_agree_on_the_first_number(tmp_path, capsys, first):
    for name in ("a/v0", "a/v1", "b/v0"):
        write_frames(tmp_path / name, first=first)
    assert list_maker(tmp_path) == 0
    reported = flags_told(capsys.readouterr().out)
    assert ("--first_frame" in reported) == (first != 1)
    for flags in ([], reported):
        dataset = build_dataset(
            "train", data_flags(tmp_path, *reported[:2], "--filename_tmpl", "img_{:05}.png", *flags)
        )
        assert shown(dataset) == [list(range(12))] * 3
    reader = opener_of(str(tmp_path / "a" / "v0"), "img_{:05}.png", "decord")()
    assert frame_numbers(reader.read([0, 11])) == [0, 11]
    words = [str(tmp_path / "lists" / "train.csv"), "--data_root", str(tmp_path), "--filename_tmpl", "img_{:05}.png"]
    assert check_data_tool([*words, "--min_frames", "2", "--workers", "1"]) == 0


def test_frames_that_count_differently_are_not_guessed(tmp_path):
    write_frames(tmp_path / "v0", first=0)
    write_frames(tmp_path / "v1", first=1)
    (tmp_path / "train.csv").write_text("v0 12 0\nv1 12 1\n")
    with pytest.raises(
        FrameNamesError, match=r"train.csv: .*start at 0 in .*v0 \(line 1\), at 1 in .*v1 .*--first_frame"
    ):
        data_set(tmp_path)
    dataset = data_set(tmp_path, "--start_index", "0")
    assert frame_numbers(dataset.open_record(dataset.records[0]).read([0])) == [0]
    with pytest.raises(UnreadableVideoError, match="img_00000.png is missing"):
        dataset.open_record(dataset.records[1]).read([0])


def test_a_damaged_folder_does_not_decide(tmp_path):
    (write_frames(tmp_path / "v0") / "img_00001.png").unlink()
    write_frames(tmp_path / "v1")
    (tmp_path / "train.csv").write_text("v0 12 0\nv1 12 1\n")
    assert data_set(tmp_path).first_frame == 1


def test_frames_of_another_name_are_reported_with_the_flag(tmp_path):
    write_frames(tmp_path / "v0", template="frame_{:06}.png")
    write_frames(tmp_path / "v0", template="flow_x_{:05}.png")
    (tmp_path / "train.csv").write_text("v0 12 0\n")
    with pytest.raises(FrameNamesError, match=r"line 1: .*no frames named img_\{:05\}.png.*frame_\{:06\}.png"):
        data_set(tmp_path)


def test_rgb_frames_are_preferred_to_flow_and_strays_are_reported(tmp_path, capsys):
    for name in ("a/v0", "b/v0", "b/v1"):
        for template in ("img_{:05}.png", "flow_x_{:05}.png", "flow_y_{:05}.png"):
            write_frames(tmp_path / name, 5, template=template)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a" / "v0" / "thumb.jpg")
    assert list_maker(tmp_path) == 0
    records, _ = read_list(tmp_path / "lists" / "train.csv")
    assert [(r.path, r.total_frames) for r in records] == [("a/v0", 5), ("b/v0", 5), ("b/v1", 5)]
    said = capsys.readouterr().out
    assert flags_told(said)[-2:] == ["--filename_tmpl", "img_{:05}.png"]
    assert "31 images" in said and "flow_x_{:05}.png (15)" in said and "thumb.jpg (1)" in said


def test_folders_that_cannot_be_read_like_the_others_are_named(tmp_path):
    for name in ("a/v0", "a/v1", "b/v0", "b/v1"):
        write_frames(tmp_path / name, 6)
    (write_frames(tmp_path / "a/gap", 6) / "img_00003.png").unlink()
    write_frames(tmp_path / "b/zero", 6, first=0)
    write_frames(tmp_path / "b/own", 6, template="own_{:05}.png")
    assert list_maker(tmp_path) == 0
    records, _ = read_list(tmp_path / "lists" / "train.csv")
    assert [r.path for r in records] == ["a/v0", "a/v1", "b/v0", "b/v1"]
    missing = (tmp_path / "lists" / "missing.txt").read_text().splitlines()
    assert len(missing) == 3
    assert "a/gap" in missing[0] and "img_00003.png missing between img_00001.png and img_00006.png" in missing[0]
    assert "b/own" in missing[1] and "named own_{:05}.png" in missing[1]
    assert "b/zero" in missing[2] and "start at 0, those of most folders at 1" in missing[2]


def test_frames_named_by_time_stamps_are_refused_by_name(tmp_path, capsys):
    for name in ("a/v0", "b/v0"):
        for stamp in (1403636579763555584, 1403636579813555456):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / name / f"{stamp}.png").touch()
    assert list_maker(tmp_path) == 1
    assert "1403636579763555585.png, 1403636579763555586.png, " in capsys.readouterr().err


def test_unpadded_numbers_are_counted_not_sorted_as_text(tmp_path, capsys):
    for name in ("a/v0", "b/v0"):
        write_frames(tmp_path / name, 12, first=0, template="{}.png")
    assert list_maker(tmp_path) == 0
    assert flags_told(capsys.readouterr().out)[-4:] == ["--filename_tmpl", "{}.png", "--first_frame", "0"]


def test_a_gap_is_reported_where_a_folder_is_predicted(tmp_path):
    (write_frames(tmp_path / "v0") / "img_00005.png").unlink()
    with pytest.raises(UnreadableVideoError, match="img_00005.png missing between"):
        opener_of(str(tmp_path / "v0"), "img_{:05}.png", "decord")


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".png"])
def test_frame_folders_may_be_called_like_files(tmp_path, suffix):
    for name in ("a/v_a", "a/v_b", "b/v_c"):
        write_frames(tmp_path / (name + suffix), 6)
    assert list_maker(tmp_path) == 0
    records, kind = read_list(tmp_path / "lists" / "train.csv", data_root=str(tmp_path))
    assert kind == "frames"
    assert [(r.total_frames, r.target) for r in records] == [(6, 0), (6, 0), (6, 1)]


def test_what_a_list_says_of_folders_is_held_to_them_before_a_run(tmp_path):
    write_folder(tmp_path / "v0", numbered_frames(6, 32, 40), "img_{:05}.png")
    write_folder(tmp_path / "v1", numbered_frames(6, 32, 40), "img_{:05}.png")
    (tmp_path / "train.csv").write_text("v0 6 0\nv1 4 1\nv0 9 1\n")
    check = check_data(data_flags(tmp_path, "--filename_tmpl", "img_{:05}.png"), ["train"])
    assert len(check.faults) == 1 and "train.csv, line 3: the last of 9 frames" in check.faults[0]
    assert any("1 folder(s) contain more frames than the list says, the first in line 2" in w for w in check.warnings)


def test_a_folder_in_a_list_of_videos_is_reported(tmp_path, caplog):
    (tmp_path / "v0.mp4").mkdir()
    (tmp_path / "v1.mp4").write_text("-")
    (tmp_path / "train.csv").write_text("v1.mp4 0\nv0.mp4 1\n")
    with caplog.at_level(logging.WARNING):
        build_dataset("train", data_flags(tmp_path))
    assert "line 2" in caplog.text and "v0.mp4 is a folder, not a file" in caplog.text
