"""Lists from a table with a column for each class or target."""

import shlex

import pytest

from datasets.annotations import read_list
from engines.configuration import parse_arguments
from run_class_finetuning import SCRIPT, get_parser
from tools.make_lists import main


@pytest.fixture()
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(10):
        (folder / f"v{number}.mp4").touch()
    return folder


def make(videos, table, task, *words):
    path = videos.parent / "table.csv"
    path.write_text(table, encoding="utf-8-sig")
    output = videos.parent / "lists"
    return main(["table", str(videos), "--annotations", str(path), "--task", task, "--output", str(output), *words])


def rows(videos, task, *splits):
    found = {}
    for split in splits:
        found |= {record.path: record.target for record in read_list(videos.parent / "lists" / split, task=task)[0]}
    return found


def test_a_table_of_classes(videos, capsys):
    table = "video,run,jump,a fall\nv0.mp4,1,0,1\nv1,,,\nv2.mp4,0,1,0\ngone.mp4,1,1,1\n\n"
    assert make(videos, table, "multilabel", "--val_share", "0") == 0
    assert rows(videos, "multilabel", "train.csv") == {"v0.mp4": (0, 2), "v1.mp4": (), "v2.mp4": (1,)}
    assert (videos.parent / "lists" / "labels.txt").read_text() == "run\njump\na fall\n"
    told = capsys.readouterr().out
    assert "train: 3 clips, 3 of 3 classes, 1 to 1 clips each" in told and "gone.mp4 (table.csv, line 5)" in told
    words = shlex.split(told.splitlines()[-1].partition("train with: ")[2])
    assert parse_arguments(get_parser(), words[2:], script=SCRIPT).task == "multilabel"


def test_a_table_of_numbers_is_split_as_one_class(videos, capsys):
    table = "video;angle;force\n" + "".join(f"v{i}.mp4;{i}.5;-{i}e3\n" for i in range(10))
    assert make(videos, table, "regression", "--val_share", "0.3") == 0
    assert len(rows(videos, "regression", "val.csv")) == 3
    assert rows(videos, "regression", "train.csv", "val.csv") == {f"v{i}.mp4": (i + 0.5, -1e3 * i) for i in range(10)}
    assert "train: 7 clips" in capsys.readouterr().out


@pytest.mark.parametrize(
    "table, task, words",
    [
        ("video,run\nv0.mp4,0.5\n", "multilabel", 'line 2: run is "0.5", which is neither 0 nor 1'),
        ("video,angle\nv0.mp4,1\nv1.mp4,\n", "regression", 'line 3: angle is "", which is no number'),
        ("video,angle\nv0.mp4,0.5;2\n", "regression", 'line 2: angle is "0.5;2", which is no number'),
        ("", "regression", "table.csv is empty"),
        ("video,angle\nv0.mp4,1,2\n", "regression", "line 2: there are 3 columns, but line 1 names 2"),
        ("video,run,run\nv0.mp4,1,1\n", "multilabel", "line 1: it should name the columns once each"),
        ("v0.mp4\n", "multilabel", "line 1: it should name the columns once each"),
    ],
)
def test_what_is_wrong_is_named_by_line_and_column(videos, capsys, table, task, words):
    assert make(videos, table, task) == 1
    assert words in capsys.readouterr().err
