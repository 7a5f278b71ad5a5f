"""Lists of a folder as it is found: with what systems leave behind, links, other files, and one folder too high."""

import os

import pytest

from datasets.annotations import read_list
from datasets.folder_walk import walk_folders
from inference.sources import expand_sources
from tools.make_lists import main


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def run(root, form="folder", *words):
    return main([form, str(root), "--output", str(root.parent / "lists"), "--val_share", "0", *map(str, words)])


def train(root):
    return {r.path: r.target for r in read_list(root.parent / "lists" / "train.csv")[0]}


@pytest.fixture()
def videos(tmp_path):
    touch(tmp_path / "videos", "jump/v0.mp4", "run/v1.mp4")
    return tmp_path / "videos"


CLEAN = {"jump/v0.mp4": 0, "run/v1.mp4": 1}


@pytest.mark.parametrize(
    "left_behind",
    [
        ".ipynb_checkpoints/v0-checkpoint.mp4",
        "jump/._v0.mp4",
        "@eaDir/v0.mp4",
        "jump/@eaDir/v0.mp4/SYNOVIDEO.mp4",
        "__MACOSX/jump/v0.mp4",
        "#recycle/old.mp4",
        "$RECYCLE.BIN/old.mp4",
    ],
)
def test_what_systems_leave_behind_is_neither_class_nor_clip(videos, capsys, left_behind):
    touch(videos, left_behind)
    assert run(videos) == 0
    assert train(videos) == CLEAN
    assert (videos.parent / "lists" / "labels.txt").read_text() == "jump\nrun\n"
    said = capsys.readouterr().out
    assert "1 passed over in total" in said and "a system file" in said


def test_a_file_with_the_name_of_a_split_is_no_split(videos):
    touch(videos, *(f"train/{name}/{clip}.mp4" for name in ("jump", "run") for clip in "ab"), "val")
    assert run(videos, "folder", "--val_share", "0.5") == 0
    assert (videos.parent / "lists" / "val.csv").read_text(), "taken from the training clips"


@pytest.mark.parametrize("suffix", [".gif", ".ogv", ".mts", ".m2ts", ".vob"])
def test_other_suffixes_of_videos_are_known(videos, suffix):
    touch(videos, f"aerobics/v2{suffix}")
    assert run(videos) == 0
    assert train(videos) == {f"aerobics/v2{suffix}": 0, "jump/v0.mp4": 1, "run/v1.mp4": 2}


def test_files_and_class_folders_that_come_to_nothing_are_told(videos, capsys):
    touch(videos, "dance/v2.raw", "dance/v3.raw", "run/notes.txt")
    assert run(videos) == 0
    said = capsys.readouterr().out
    assert f"warning: {videos / 'dance'} has no clips and is not a class; it has .raw (2)" in said
    assert "3 files that are neither videos nor images: .raw (2), .txt (1)" in said


def test_pictures_beside_videos_are_told(videos, capsys):
    touch(videos, *[f"frames/v{i}/img_00001.jpg" for i in range(3)])
    assert run(videos) == 0
    assert "3 folders with images, such as frames/v0, as there are videos" in capsys.readouterr().out


def test_clips_outside_the_splits_are_told(tmp_path, capsys):
    root = tmp_path / "videos"
    touch(root, "Train/a/0.mp4", "Train/b/1.mp4", "VAL/a/2.mp4", "extra/a/3.mp4")
    assert run(root) == 0
    assert train(root) == {"Train/a/0.mp4": 0, "Train/b/1.mp4": 1}
    assert "1 clips outside Train, VAL, such as extra/a/3.mp4" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["folder", "imagenet"])
def test_a_folder_one_too_high_is_refused(tmp_path, capsys, form):
    root = tmp_path / "data"
    suffix = ".jpg" if form == "imagenet" else ".mp4"
    touch(root, *[f"kinetics/{name}/{name}{suffix}" for name in ("jump", "run")])
    assert run(root, form) == 1
    assert f"only one class; if the classes are the folders in it (jump, run), pass {root / 'kinetics'}" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "lists").exists()


@pytest.mark.parametrize(
    ("form", "suffix", "other", "held"),
    [("folder", ".mp4", ".raw", ".raw (2)"), ("folder", ".mp4", ".jpg", ".jpg (2)"), ("imagenet", ".jpg", "", "")],
)
@pytest.mark.parametrize("share", ["0", "0.5"])
def test_a_training_folder_without_clips_is_refused(tmp_path, capsys, form, suffix, other, held, share):
    root = tmp_path / "data"
    touch(root, *[f"val/{name}/0{suffix}" for name in ("jump", "run")])
    (root / "train" / "jump").mkdir(parents=True)
    if other:
        touch(root, *[f"train/{name}/0{other}" for name in ("jump", "run")])
    assert run(root, form, "--test_share", share) == 1
    said = capsys.readouterr().err
    assert f"no usable clip for training in {root / 'train'}; found there: {held or 'no files'}. Put" in said
    assert not (tmp_path / "lists").exists()


def test_an_empty_training_folder_beside_classes_is_refused(videos, capsys):
    (videos / "Train").mkdir()
    assert run(videos) == 1
    said = capsys.readouterr().err
    assert f"in {videos / 'Train'}; found there: no files" in said and "rename the folder if it is not" in said


def test_splits_that_were_taken_for_classes_are_suspected(tmp_path, capsys):
    root = tmp_path / "data"
    touch(root, *[f"{split}_256/{name}/0.mp4" for split in ("train", "val") for name in ("jump", "run")])
    assert run(root) == 0
    assert "all classes contain the same folders (jump, run); are those the classes?" in capsys.readouterr().out


@pytest.mark.parametrize("target", [".", "..", "jump", "../.."])
def test_a_link_gives_no_file_a_second_name(videos, capsys, target):
    os.symlink(videos / target, videos / "run" / "again")
    assert run(videos) == 0
    assert train(videos) == CLEAN
    assert "a link to a folder that has already been visited" in capsys.readouterr().out
    assert expand_sources([str(videos)]) == [str(videos / path) for path in CLEAN]


def test_links_to_folders_elsewhere_are_followed(videos, tmp_path):
    touch(tmp_path / "disk2", "v2.mp4")
    os.symlink(tmp_path / "disk2", videos / "climb")
    assert run(videos) == 0
    assert train(videos) == {"climb/v2.mp4": 0, "jump/v0.mp4": 1, "run/v1.mp4": 2}
    assert sorted(expand_sources([str(videos)])) == [str(videos / p) for p in sorted(train(videos))]


def test_a_folder_that_cannot_be_read_is_told(videos, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("run"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    passed_over = []
    assert [files for _, files in walk_folders(videos, passed_over)] == [[], ["v0.mp4"]]
    assert passed_over == [f"{videos / 'run'}: Permission denied"]


@pytest.mark.parametrize("words", [(), ("--overwrite",)])
def test_an_output_that_is_a_file_is_refused(videos, capsys, words):
    (videos.parent / "lists").write_text("mine")
    assert run(videos, "folder", *words) == 1
    assert f"{videos.parent / 'lists'} is a file; name another folder with --output" in capsys.readouterr().err
    assert (videos.parent / "lists").read_text() == "mine"


def test_an_output_that_cannot_be_written_is_told(videos, capsys):
    (videos.parent / "lists" / "train.csv" / "x").mkdir(parents=True)
    assert run(videos, "folder", "--overwrite") == 1
    assert "lists/train.csv" in capsys.readouterr().err


def test_names_that_are_no_text_are_refused_by_name(videos, capsys):
    with open(os.fsencode(videos / "run") + b"/\xff.mp4", "w"):
        pass
    assert run(videos) == 1
    assert r"run/\udcff.mp4' cannot be written in a list file; rename it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "files", "words", "said"),
    [
        ("ucf101", {"s/classInd.txt": b"1 A\n3 B\n"}, ["--splits", "s"], "not numbered from 1 to 2"),
        ("ucf101", {"s/classInd.txt": b"1 \xff\n"}, ["--splits", "s"], "not UTF-8"),
        ("ssv2", {"t": b"[]", "l": b'{"a": "x"}'}, ["--train", "t", "--labels", "l"], "numbers from 0 to 0"),
        (
            "kinetics",
            {"t": b"label,youtube_id,time_start,time_end\na,b,x,2\n"},
            ["--train", "t"],
            't, line 2: a time should be a number of seconds, not "x"',
        ),
        ("kinetics", {"t": b"label,youtube_id\na\n"}, ["--train", "t"], "line 2: youtube_id is empty"),
    ],
)
def test_faults_of_published_files_are_told_with_their_place(videos, monkeypatch, capsys, form, files, words, said):
    monkeypatch.chdir(videos.parent)
    for name, content in files.items():
        touch(videos.parent, name)
        (videos.parent / name).write_bytes(content)
    assert run(videos, form, *words) == 1
    assert said in capsys.readouterr().err


def test_split_files_left_behind_by_a_system_are_no_class(videos, monkeypatch):
    monkeypatch.chdir(videos.parent)
    touch(videos.parent, "s/._jump_test_split1.txt")
    touch(videos, "jump/v2.mp4")
    (videos.parent / "s" / "jump_test_split1.txt").write_text("v0.mp4 1\nv2.mp4 2\n")
    (videos.parent / "s" / "run_test_split1.txt").write_text("v1.mp4 1\n")
    assert run(videos, "hmdb51", "--splits", "s") == 0
    assert train(videos) == CLEAN


def test_a_split_without_clips_is_told(videos, capsys):
    touch(videos.parent, "s/run_test_split1.txt")
    (videos.parent / "s" / "run_test_split1.txt").write_text("v1.mp4 1\n")
    assert run(videos, "hmdb51", "--splits", videos.parent / "s") == 1
    assert "contain no test clip" in capsys.readouterr().err
