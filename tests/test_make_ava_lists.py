"""make_lists ava: AVA's files without the movies that are not there, read back as a run reads them."""

import shlex

import numpy as np
import pytest
from detection_files import LABEL_MAP, small_settings, write_lines
from video_files import numbered_frames, write_folder, write_video

from datasets.detection.lists import read_keyframes
from tools.make_lists import main

PLACE = "0.077,0.151,0.283,0.811"


@pytest.fixture
def published(tmp_path):
    """AVA's files under their own names, and three of five videos, in a folder below VIDEOS."""
    folder = tmp_path / "annotations"
    folder.mkdir()
    (folder / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text(LABEL_MAP)
    rows = {
        name: [f"{name},0001,{PLACE},12,0", f"{name},0001,{PLACE},7,0"] for name in ("-a", "b.c", "gone", "d", "e")
    }
    write_lines(folder / "ava_train_v2.2.csv", *rows["-a"], *rows["gone"], *rows["b.c"])
    write_lines(folder / "ava_val_v2.2.csv", *rows["d"], *rows["e"])
    write_lines(folder / "ava_train_excluded_timestamps_v2.2.csv", "-a,0902")
    write_lines(folder / "ava_val_excluded_timestamps_v2.2.csv", "d,0903")
    write_lines(folder / "ava_val_predicted_boxes.csv", f"d,0001,{PLACE},,0.95", f"e,0001,{PLACE},,0.95")
    media = tmp_path / "VIDEOS" / "trainval"
    media.mkdir(parents=True)
    write_folder(media / "-a", numbered_frames(8))
    write_video(media / "b.c.mkv", numbered_frames(8))
    write_folder(media / "d", numbered_frames(8))
    (tmp_path / "VIDEOS" / "other").mkdir()
    return tmp_path


def make(folder, *flags):
    words = ["--annotations", str(folder / "annotations"), "--output", str(folder / "lists"), *flags]
    return main(["ava", str(folder / "VIDEOS"), *words])


def test_the_written_files_are_read_by_a_run(published, capsys):
    assert make(published) == 0
    printed = capsys.readouterr().out
    assert "train: 2 videos, 4 rows" in printed and "val: 1 videos, 2 rows" in printed
    annotations = published / "annotations"
    assert (published / "lists" / "missing.txt").read_text().splitlines() == [
        f"train: gone ({annotations / 'ava_train_v2.2.csv'}, line 3)",
        f"val: e ({annotations / 'ava_val_v2.2.csv'}, line 3)",
    ]
    words = shlex.split(next(line for line in printed.splitlines() if line.startswith("train with:")))
    root = words[words.index("--data_root") + 1]
    settings = small_settings(published / "lists", data_root=root)
    train, test = (read_keyframes(mode, settings).records for mode in ("train", "test"))
    assert [record.video for record in train] == ["-a", "b.c"] and [record.video for record in test] == ["d"]
    assert train[1].path.endswith("b.c.mkv") and len(test[0].boxes) == 1
    assert train[0].target["labels"] == [(12, 7)]
    assert read_keyframes("train", settings).excluded == {("-a", 902), ("d", 903)}


def test_a_test_split_is_optional_and_may_have_its_own_persons(published, capsys):
    annotations, lists = published / "annotations", published / "lists"
    write_lines(annotations / "test.csv", f"-a,0001,{PLACE},12,0", f"lost,0001,{PLACE},12,0")
    assert make(published) == 0
    printed = capsys.readouterr().out
    assert "test: 1 videos, 1 rows" in printed and "there is no test_predicted_boxes.csv in" in printed
    assert "test: lost" in (lists / "missing.txt").read_text()
    shared = write_lines(published / "shared.csv", f"d,0001,{PLACE},,0.95", f"-a,0001,{PLACE},,0.9")
    assert make(published, "--overwrite", "--person_boxes", str(shared)) == 0
    assert (lists / "val_predicted_boxes.csv").read_text() == f"d,0001,{PLACE},,0.95\n"
    assert (lists / "test_predicted_boxes.csv").read_text() == f"-a,0001,{PLACE},,0.9\n"
    write_lines(annotations / "test_predicted_boxes.csv", f"-a,0001,{PLACE},,0.85", f"lost,0001,{PLACE},,0.85")
    assert make(published, "--overwrite", "--person_boxes", str(shared)) == 0
    settings = small_settings(lists, data_root=str(published / "VIDEOS" / "trainval"))
    (record,) = read_keyframes("test", settings).records
    assert (record.video, *record.scores.round(2)) == ("-a", np.float32(0.85))
    (annotations / "test.csv").unlink()
    assert make(published, "--overwrite") == 0
    # a test split of an earlier time is not left beside the new files
    assert {"test.csv", "test_predicted_boxes.csv"}.isdisjoint(path.name for path in lists.iterdir())


def test_nothing_is_replaced_unasked(published, capsys):
    assert make(published) == 0
    assert make(published) == 1 and "--overwrite replaces them" in capsys.readouterr().err
    (published / "annotations" / "ava_val_predicted_boxes.csv").unlink()
    assert make(published, "--overwrite") == 0 and "--eval_boxes ground_truth" in capsys.readouterr().out
    # boxes of an earlier time are not left beside the new files
    assert not (published / "lists" / "val_predicted_boxes.csv").exists()


def test_faults_are_reported_and_nothing_is_written(published, capsys):
    with open(published / "annotations" / "ava_val_v2.2.csv", "a") as file:
        file.write("d,0001,0.5,0.1,0.4,0.2,12,0\n")
    assert make(published) == 1
    assert "ava_val_v2.2.csv: 1 faulty line(s)\n  line 5: the box is empty" in capsys.readouterr().err
    (published / "annotations" / "ava_val_v2.2.csv").unlink()
    assert make(published) == 1 and "--val_csv FILE" in capsys.readouterr().err
    assert not (published / "lists").exists()


def test_a_folder_without_the_videos_is_refused(published, capsys):
    words = ["--annotations", str(published / "annotations"), "--output", str(published / "lists")]
    assert main(["ava", str(published / "annotations"), *words]) == 1
    assert "none of the 5 videos" in capsys.readouterr().err
    assert main(["ava", str(published / "nowhere"), *words]) == 1
    assert "is not a folder" in capsys.readouterr().err
