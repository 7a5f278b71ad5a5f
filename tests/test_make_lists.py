"""Lists from what data sets come with: labels, missing files, and validation splits, read back by the list reader."""

import json
import re
import shlex
import subprocess
import sys
from collections import Counter

import pytest

import run_class_finetuning
from datasets.annotations import read_list
from datasets.preparation.list_splits import Clip, split_off
from datasets.preparation.list_summary import RECIPES
from datasets.preparation.media_index import Found
from engines.recipe import load_recipe, recipe_names
from tools.make_lists import main

# Jhuang et al., Towards understanding action recognition, ICCV 2013, in the order of the alphabet.
JHMDB = [
    "brush_hair", "catch", "clap", "climb_stairs", "golf", "jump", "kick_ball", "pick", "pour", "pullup", "push",
    "run", "shoot_ball", "shoot_bow", "shoot_gun", "sit", "stand", "swing_baseball", "throw", "walk", "wave",
]  # fmt: skip


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def read(output, split):
    """A list as {path: label}, frame folders as {path: (total, label)}."""
    records, kind = read_list(output / f"{split}.csv")
    return {r.path: r.target if kind == "video" else (r.total_frames, r.target) for r in records}


def labels(output):
    return (output / "labels.txt").read_text().splitlines()


def run(tmp_path, form, *words, root="videos"):
    return main([form, str(tmp_path / root), "--output", str(tmp_path / "lists"), *map(str, words)])


def test_a_folder_of_classes(tmp_path, capsys):
    for name in ("swim", "Climb wall", "run"):
        touch(tmp_path / "videos", *[f"{name}/clip {i}.mp4" for i in range(10)], f"{name}/notes.txt")
    touch(tmp_path / "videos", "run/deeper/clip 0.avi", "swim/run/deeper/clip 0.avi")
    assert run(tmp_path, "folder", "--val_share", "0.2", "--test_share", "0.1") == 0
    lists = tmp_path / "lists"
    train, val, test = (read(lists, split) for split in ("train", "val", "test"))
    assert labels(lists) == ["Climb wall", "run", "swim"]
    assert (len(train), len(val), len(test)) == (32 - 6 - 3, 6, 3)
    assert len(train | val | test) == 32
    assert Counter(val.values()) == {0: 2, 1: 2, 2: 2} and Counter(test.values()) == {0: 1, 1: 1, 2: 1}
    assert (train | val | test)["run/deeper/clip 0.avi"] == 1
    assert (train | val | test)["Climb wall/clip 3.mp4"] == 0
    assert not (lists / "missing.txt").exists()
    said = capsys.readouterr().out
    assert "train: 23 clips, 3 of 3 classes" in said
    command = shlex.split(said.splitlines()[-1].removeprefix("train with: "))
    assert command[:4] == ["python", "run_class_finetuning.py", "--recipe", "custom/hybrid"]
    flags = run_class_finetuning.get_parser().parse_args(command[2:])
    assert flags.recipe in recipe_names()
    assert (flags.data_path, flags.data_root) == (str(lists), str(tmp_path / "videos"))
    assert (flags.label_names, flags.output_dir) == (str(lists / "labels.txt"), "outputs/videos")


def test_the_recipes_of_named_data_sets_are_there():
    assert {recipe for recipe, _ in RECIPES.values()} <= set(recipe_names())
    assert all(load_recipe(recipe).flags.get("nb_classes") in (None, classes) for recipe, classes in RECIPES.values())


def test_the_same_seed_gives_the_same_lists_and_nothing_is_replaced_unasked(tmp_path, capsys):
    touch(tmp_path / "videos", *[f"{c}/{i}.mp4" for c in "ab" for i in range(20)])
    assert run(tmp_path, "folder", "--seed", "3") == 0
    first = read(tmp_path / "lists", "val")
    assert run(tmp_path, "folder", "--seed", "4") == 1
    assert "already contains train.csv, val.csv, labels.txt; --overwrite" in capsys.readouterr().err
    assert read(tmp_path / "lists", "val") == first
    assert run(tmp_path, "folder", "--seed", "3", "--overwrite") == 0
    assert read(tmp_path / "lists", "val") == first
    (tmp_path / "lists" / "test.csv").write_text("a/1.mp4 0\n")
    assert run(tmp_path, "folder", "--seed", "4", "--overwrite") == 0
    assert not (tmp_path / "lists" / "test.csv").exists()
    assert read(tmp_path / "lists", "val") != first


def test_split_folders_and_frame_folders(tmp_path):
    for path, count in {"train/b/x": 3, "train/a/y 1": 4, "validation/a/z": 5}.items():
        touch(tmp_path / "videos", *[f"{path}/img_{i:05}.jpg" for i in range(1, count + 1)])
    assert run(tmp_path, "folder") == 0
    assert read(tmp_path / "lists", "train") == {"train/b/x": (3, 1), "train/a/y 1": (4, 0)}
    assert read(tmp_path / "lists", "val") == {"validation/a/z": (5, 0)}


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("frame_000001.png", "frame_{:06}.png"),
        ("1.jpg", "{}.jpg"),
        ("v2_00001.jpg", "v2_{:05}.jpg"),
        ("x.jpg", "x.jpg"),
    ],
)
def test_other_names_of_frames_are_told(tmp_path, capsys, name, template):
    touch(tmp_path / "videos", f"a/x/{name}", f"b/y/{name}")
    assert run(tmp_path, "folder") == 0
    assert template.format(1) == name
    said = capsys.readouterr().out.splitlines()[-1]
    words = shlex.split(said)
    assert words[words.index("--filename_tmpl") + 1] == template


def test_kinetics(tmp_path, capsys):
    touch(tmp_path / "videos", "sky diving/abc_000010_000020.mp4", "de-f_000001_000011.mkv", "whole/xyz.webm")
    head = "label,youtube_id,time_start,time_end,split\n"
    train = write(
        tmp_path / "train.csv",
        head + "sky diving,abc,10,20,train\nbowling,de-f,1,11,train\nbowling,gone,3,13,train\n",
    )
    val = write(tmp_path / "val.csv", head + '"bowling",xyz,5,15,validate\n')
    assert run(tmp_path, "kinetics", "--train", train, "--val", val) == 0
    lists = tmp_path / "lists"
    assert labels(lists) == ["bowling", "sky diving"]
    assert read(lists, "train") == {"sky diving/abc_000010_000020.mp4": 1, "de-f_000001_000011.mkv": 0}
    assert read(lists, "val") == {"whole/xyz.webm": 0}
    line = f"train: gone_000003_000013 ({train}, line 4): there is no such file"
    assert (lists / "missing.txt").read_text() == line + "\n"
    said = capsys.readouterr().out
    assert line in said and "1 missing in total" in said


def test_something_something(tmp_path):
    names = {"Holding something": "1", "Approaching something with your camera": "0"}
    numbers = write(tmp_path / "labels.json", json.dumps(names))
    clips = [
        {"id": "78687", "label": "holding potato", "template": "Holding [something]", "placeholders": ["potato"]},
        {"id": "00012", "template": "Approaching [something] with your camera"},
    ]
    train = write(tmp_path / "train.json", json.dumps(clips[:1]))
    val = write(tmp_path / "val.json", json.dumps(clips[1:]))
    touch(tmp_path / "videos", "78687.webm", "00012.webm")
    assert run(tmp_path, "ssv2", "--train", train, "--val", val, "--labels", numbers) == 0
    assert read(tmp_path / "lists", "train") == {"78687.webm": 1}
    assert read(tmp_path / "lists", "val") == {"00012.webm": 0}
    assert labels(tmp_path / "lists") == ["Approaching something with your camera", "Holding something"]


def ucf101(tmp_path):
    classes = ["ApplyLipstick", "Archery"]
    clips = [f"{c}/v_{c}_g{g:02}_c{n:02}.avi" for c in classes for g in range(1, 11) for n in range(1, 5)]
    splits = tmp_path / "splits"
    write(splits / "classInd.txt", "1 ApplyLipstick\r\n2 Archery\r\n")
    test = [clip for clip in clips if "_g01_" in clip]
    train = [clip for clip in clips if clip not in test]
    write(splits / "trainlist01.txt", "".join(f"{clip} {classes.index(clip.split('/')[0]) + 1}\n" for clip in train))
    write(splits / "testlist01.txt", "".join(f"{clip}\n" for clip in test))
    return splits, clips, test


def test_ucf101_validation_never_shares_a_recording_with_training(tmp_path):
    splits, clips, test = ucf101(tmp_path)
    touch(tmp_path / "videos", *clips)
    assert run(tmp_path, "ucf101", "--splits", splits, "--val_share", "0.2") == 0
    train, val = read(tmp_path / "lists", "train"), read(tmp_path / "lists", "val")
    assert read(tmp_path / "lists", "test") == {clip: int("Archery" in clip) for clip in test}
    assert len(train) + len(val) == 72 and Counter(val.values()) == {0: 8, 1: 8}
    recordings = [{path[: path.rindex("_c")] for path in split} for split in (train, val)]
    assert not recordings[0] & recordings[1]


def test_without_a_share_the_test_list_validates_and_prepared_files_may_have_other_suffixes(tmp_path):
    splits, clips, test = ucf101(tmp_path)
    touch(tmp_path / "videos", *[clip.replace(".avi", ".mp4") for clip in clips])
    assert run(tmp_path, "ucf101", "--splits", splits, "--val_share", "0") == 0
    assert read(tmp_path / "lists", "val") == read(tmp_path / "lists", "test")
    assert len(read(tmp_path / "lists", "train")) == 72 and len(test) == 8


def test_hmdb51(tmp_path):
    splits = tmp_path / "splits"
    films = [f"Film{i}_brush_hair_u_nm_np1_ba_goo_{n}.avi" for i in range(5) for n in range(2)]
    write(splits / "brush_hair_test_split1.txt", "".join(f"{f} {2 if 'Film0' in f else 1} \n" for f in films))
    write(splits / "wave_test_split1.txt", "A_wave_u_0.avi 1 \nB_wave_u_0.avi 2 \nC_wave_u_0.avi 0 \n")
    touch(tmp_path / "videos", *[f"brush_hair/{f}" for f in films], *[f"wave/{x}_wave_u_0.avi" for x in "ABC"])
    assert run(tmp_path, "hmdb51", "--splits", splits, "--val_share", "0.25") == 0
    train, val, test = (read(tmp_path / "lists", split) for split in ("train", "val", "test"))
    assert test == {f"brush_hair/{f}": 0 for f in films[:2]} | {"wave/B_wave_u_0.avi": 1}
    assert len(val) == 2 and len({path.split("_")[1] for path in val}) == 1, "both clips of one film"
    assert train["wave/A_wave_u_0.avi"] == 1, "a class keeps its only clip to train on"
    assert len(train) == 7 and "wave/C_wave_u_0.avi" not in train | val | test
    assert labels(tmp_path / "lists") == ["brush_hair", "wave"]


def test_jhmdb_has_21_actions_and_films_stay_together(tmp_path, capsys):
    splits, roles = tmp_path / "splits", {}
    for action in JHMDB:
        clips = [f"film{i}_{action}_u_cm_np1_fr_med_{n}.avi" for i in range(6) for n in range(2)]
        write(splits / f"{action}_test_split2.txt", "".join(f"{c} {2 if 'film0' in c else 1}\n" for c in clips))
        touch(tmp_path / "videos", *[f"{action}/{c}" for c in clips])
        roles |= {f"{action}/{c}": "film0" in c for c in clips}
    assert run(tmp_path, "jhmdb", "--splits", splits, "--fold", "2", "--val_share", "0.2") == 0
    lists = tmp_path / "lists"
    assert labels(lists) == JHMDB and len(JHMDB) == 21
    test = read(lists, "test")
    assert test == {clip: JHMDB.index(clip.split("/")[0]) for clip, tested in roles.items() if tested}
    train, val = read(lists, "train"), read(lists, "val")
    assert len(train) + len(val) == 21 * 10 and set(val.values()) == set(range(21))
    films = [{re.sub(r"(film\d).*", r"\1", path) for path in split} for split in (train, val)]
    assert not films[0] & films[1]
    (splits / "wave_test_split2.txt").rename(splits / "fencing_test_split2.txt")
    assert run(tmp_path, "jhmdb", "--splits", splits, "--fold", "2", "--overwrite") == 1
    assert "lacks wave and has fencing, which are none of its actions" in capsys.readouterr().err


def test_imagenet(tmp_path):
    touch(tmp_path / "images", "train/n02/a.JPEG", "train/n01/b.JPEG", "val/n02/c.JPEG", "val/n01/d.JPEG")
    assert run(tmp_path, "imagenet", root="images") == 0
    assert read(tmp_path / "lists", "train") == {"train/n01/b.JPEG": (1, 0), "train/n02/a.JPEG": (1, 1)}
    assert read(tmp_path / "lists", "val") == {"val/n01/d.JPEG": (1, 0), "val/n02/c.JPEG": (1, 1)}


def test_splits_are_stratified_and_do_not_depend_on_the_order_of_files():
    clips = [
        Clip(Found(f"{label}/{i}.mp4"), label) for label, count in enumerate((100, 10, 2, 1)) for i in range(count)
    ]
    stay, taken = split_off(clips, 0.1, seed=0)
    assert Counter(clip.label for clip in taken) == {0: 10, 1: 1, 2: 1}
    assert sorted(stay + taken, key=str) == sorted(clips, key=str)
    assert sorted(split_off(clips[::-1], 0.1, seed=0)[1], key=str) == sorted(taken, key=str)


@pytest.mark.parametrize(
    ("form", "files", "words", "said"),
    [
        ("kinetics", {"t.csv": "id,x\na,b\n"}, ["--train", "t.csv"], "t.csv, line 1: column label"),
        (
            "kinetics",
            {"t.csv": "label,youtube_id\na,no\n"},
            ["--train", "t.csv"],
            "none of the 1 train clips can be used",
        ),
        ("ssv2", {"t.json": "[{}]", "l.json": '{"a": 1}'}, ["--train", "t.json", "--labels", "l.json"], "from 0 to 0"),
        (
            "ssv2",
            {"t.json": '[{"id": 1}]', "l.json": '{"a": "0"}'},
            ["--train", "t.json", "--labels", "l.json"],
            "clip 1",
        ),
        ("ssv2", {"t.json": "[", "l.json": "{}"}, ["--train", "t.json", "--labels", "l.json"], "t.json is not JSON"),
        ("ucf101", {"s/classInd.txt": "1 A 3\n"}, ["--splits", "s"], "classInd.txt, line 1: should be `number class`"),
        ("ucf101", {"s/classInd.txt": "1 A\n"}, ["--splits", "s"], "trainlist01.txt does not exist"),
        ("hmdb51", {"s/x.txt": ""}, ["--splits", "s"], "no files CLASS_test_split1.txt"),
        ("hmdb51", {"s/w_test_split1.txt": "a.avi 7\n"}, ["--splits", "s"], "line 1: should be a clip and 0, 1 or 2"),
        ("folder", {"videos/b.mp4": ""}, [], "b.mp4 is not in a class folder"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(tmp_path, monkeypatch, capsys, form, files, words, said):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "videos/c/a.mp4")
    for name, text in files.items():
        write(tmp_path / name, text)
    assert run(tmp_path, form, *words) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "lists").exists()


def test_the_command(tmp_path):
    touch(tmp_path / "v", "a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4")
    words = ["folder", str(tmp_path / "v"), "--output", str(tmp_path / "lists"), "--val_share", "0.5"]
    subprocess.run([sys.executable, "-m", "tools.make_lists", *words], check=True)
    assert read(tmp_path / "lists", "train").keys() | read(tmp_path / "lists", "val").keys() == {
        "a/1.mp4", "a/2.mp4", "b/1.mp4", "b/2.mp4",
    }  # fmt: skip
