"""Lists of Breakfast, COIN and LVU: the class numbers of the published checkpoints, and what is left out."""

import json
import math

import pytest
from test_recipes import parsed_recipe

from datasets.annotations import read_list
from datasets.presets import LVU_CLASSES, PRESETS
from tools.make_lists import main

# Lines of ViS4mer's lists of Breakfast, which VideoMamba follows: person, camera, activity, class.
BREAKFAST = """P03-cam01-P03_cereals,0 P04-webcam01-P04_coffee,1 P05-cam02-P05_tea,2 P06-webcam02-P06_pancake,3
P07-cam01-P07_friedegg,4 P45-cam01-P45_scrambledegg,5 P47-cam01-P47_sandwich,6 P48-cam01-P48_juice,7
P49-stereo-P49_milk_ch0,8 P54-cam01-P54_salat,9"""


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def run(tmp_path, form, *words):
    return main([form, str(tmp_path / "videos"), "--output", str(tmp_path / "lists"), *words])


def read(tmp_path, split, **settings):
    return {r.path: r.target for r in read_list(tmp_path / "lists" / f"{split}.csv", **settings)[0]}


def test_breakfast_has_the_published_class_numbers_and_persons(tmp_path, capsys):
    published = dict(entry.split(",") for entry in BREAKFAST.split())
    paths = {name.replace("-", "/", 2) + ".avi": int(label) for name, label in published.items()}
    touch(tmp_path / "videos", *paths, "P28/cam01/P28_cereals.avi", "P49/stereo/P49_milk_ch1.avi")
    assert run(tmp_path, "breakfast") == 0
    train = {path: label for path, label in paths.items() if int(path[1:3]) < 46}
    assert read(tmp_path, "train") == train and len(train) == 6
    test = read(tmp_path, "test")
    assert test == read(tmp_path, "val") == {path: label for path, label in paths.items() if path not in train}
    said = capsys.readouterr().out
    assert "P28/cam01/P28_cereals.avi" in said and "P49_milk_ch1.avi" in said and "same videos" in said
    assert "--recipe breakfast/tiny_f32_res224" in said
    names = (tmp_path / "lists" / "labels.txt").read_text().split()
    assert [names.index(name) for name in ("cereals", "salat", "friedegg")] == [0, 9, 4]


def test_another_folder_is_no_breakfast(tmp_path, capsys):
    touch(tmp_path / "videos", "a/b.mp4")
    assert run(tmp_path, "breakfast") == 1
    assert "P03/cam01/P03_tea.avi" in capsys.readouterr().err


def coin(subset, label, name):
    return {"subset": subset, "recipe_type": label, "class": name, "duration": 99.5, "annotation": []}


def test_coin_has_the_numbers_of_its_file(tmp_path, capsys):
    database = {
        "-x1": coin("training", 179, "WrapZongzi"),
        "b2": coin("training", 0, "ArcWeld"),
        "c3": coin("testing", 0, "ArcWeld"),
        "gone": coin("testing", 1, "AssembleBed"),
        "AfiVmAjfTNs": coin("training", 3, "AssembleOffice"),
    }
    (tmp_path / "COIN.json").write_text(json.dumps({"database": database}))
    touch(tmp_path / "videos", "179/-x1.mp4", "b2.webm", "c3.mp4", "AfiVmAjfTNs.mp4")
    assert run(tmp_path, "coin", "--annotations", str(tmp_path / "COIN.json")) == 0
    assert read(tmp_path, "train") == {"179/-x1.mp4": 179, "b2.webm": 0}
    assert read(tmp_path, "val") == read(tmp_path, "test") == {"c3.mp4": 0}
    names = (tmp_path / "lists" / "labels.txt").read_text().splitlines()
    assert len(names) == 180 and (names[0], names[1], names[179]) == ("ArcWeld", "AssembleBed", "WrapZongzi")
    assert "video gone" in (tmp_path / "lists" / "missing.txt").read_text()
    assert "left out as in the published lists: AfiVmAjfTNs" in capsys.readouterr().out
    database["b2"]["recipe_type"] = 179
    (tmp_path / "COIN.json").write_text(json.dumps({"database": database}))
    assert run(tmp_path, "coin", "--annotations", str(tmp_path / "COIN.json"), "--overwrite") == 1
    assert "video b2: class 179 is ArcWeld, but should be WrapZongzi" in capsys.readouterr().err


def lvu(tmp_path, task, header, train, val="", test=""):
    for split, lines in (("train", train), ("val", val or train), ("test", test or train)):
        file = tmp_path / "lvu_1.0" / task / f"{split}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{header}\n{lines}\n")
    return ["--annotations", str(tmp_path / "lvu_1.0"), "--task", task]


def test_a_class_of_lvu_that_no_list_has_keeps_its_number(tmp_path, capsys):
    lines = "0 \\N -wX6_qCCnPc tt0093409\n9 Joel Coen b3 tt0116282\n7 Ethan Coen c4 tt1\n5"
    words = lvu(tmp_path, "writer", "writer_id writer youtube_id imdb_id", lines)
    touch(tmp_path / "videos", "-wX6_qCCnPc.mkv", "b3.mkv")
    assert run(tmp_path, "lvu", *words) == 0
    assert read(tmp_path, "test") == {"-wX6_qCCnPc.mkv": 0, "b3.mkv": 9}
    names = (tmp_path / "lists" / "labels.txt").read_text().splitlines()
    assert len(names) == 10 and (names[0], names[8], names[9]) == ("\\N", "unused_8", "Joel Coen")
    said = capsys.readouterr().out
    assert 'train.csv, line 5 is broken and left out: "5"' in said and "--recipe lvu/writer_tiny_f32_res224" in said
    assert "c4 (" in (tmp_path / "lists" / "missing.txt").read_text()
    lvu(tmp_path, "writer", "3 Woody Allen b3 tt2", lines)  # a list without a header
    assert run(tmp_path, "lvu", *words, "--overwrite") == 0
    assert 3 in [record.target for record in read_list(tmp_path / "lists" / "test.csv")[0]]


@pytest.mark.parametrize(
    ("task", "header", "line", "target"),
    [
        ("like_ratio", "like_count dislike_count youtube_id imdb_id", "30 10 a1 tt1", 7.5 - 9.138220535629456),
        ("view_count", "view_count youtube_id imdb_id", "1000 a1 tt1", math.log(1000) - 11.76425435683139),
    ],
)
def test_regressions_of_lvu_have_the_published_targets(tmp_path, capsys, task, header, line, target):
    words = lvu(tmp_path, task, header, f"{line}\n0 0 0 0 0")
    touch(tmp_path / "videos", "a1.mp4")
    assert run(tmp_path, "lvu", *words) == 0
    assert read(tmp_path, "train", task="regression")["a1.mp4"] == pytest.approx((target,), abs=1e-12)
    assert "line 3 is broken" in capsys.readouterr().out


@pytest.mark.parametrize("task", LVU_CLASSES)
def test_each_task_of_lvu_has_a_recipe(task):
    args = parsed_recipe(f"lvu/{task}_tiny_f32_res224")
    preset = PRESETS[args.data_set]
    assert (preset.window_seconds, args.window_stride, preset.num_classes) == (60, 16, LVU_CLASSES[task])
    numbers = task in ("like_ratio", "view_count")
    assert args.task == ("regression" if numbers else "classification")
    assert (args.mixup, args.smoothing) == ((0, 0) if numbers else (0.8, 0.1))
    assert (args.epochs, args.lr, args.global_batch, args.num_sample) == (70, 4e-4, 64, 2)
