"""Files that inference must not write: inputs, one file of two flags, and what cannot be written at all."""

import os
from pathlib import Path

import pytest

import run_inference
from inference.batch import output_paths
from inference.output_files import check_output_files, check_writable


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with videos, one in a subfolder with the name of another, and the files of flags."""
    monkeypatch.chdir(tmp_path)
    for name in ("v/a.mp4", "v/sub/a.mp4", "list.txt", "names.txt", "truth.csv", "boxes.csv"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def check(*words, sources=("v/a.mp4",), **of_sources):
    args = run_inference.get_parser().parse_args(["--checkpoint", "c.pth", *words])
    check_output_files(args, sources, **of_sources)


def test_a_copy_does_not_replace_another_source():
    sources = ["v/a.mp4", "v/sub/a.mp4"]
    with pytest.raises(ValueError, match=r"--annotate v/sub/a.mp4 would overwrite the input v/sub/a.mp4"):
        check("v", sources=sources, annotate=output_paths("v/sub", sources, ".mp4"))
    with pytest.raises(ValueError, match=r"--heatmap pictures/a.png would overwrite the input ./pictures/a.png"):
        check(sources=["./pictures/a.png"], heatmap={"b.jpg": Path("pictures/a.png")})
    check("v", sources=sources, annotate=output_paths("out", sources, ".mp4"))


def test_a_link_does_not_hide_that_a_copy_would_replace_its_source():
    os.symlink("v", "link")
    with pytest.raises(ValueError, match=r"--annotate link/a.mp4 would overwrite the input v/a.mp4"):
        check(annotate=output_paths("link/a.mp4", ["v/a.mp4"], ".mp4"))


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        ("list.txt --json list.txt", "--json list.txt would overwrite the input list.txt"),
        ("v --truth truth.csv --segments ./truth.csv", "--segments truth.csv would overwrite the file of --truth"),
        ("v --label_names names.txt --json names.txt", "--json names.txt would overwrite the file of --label_names"),
        ("v --boxes boxes.csv --csv boxes.csv", "--csv boxes.csv would overwrite the file of --boxes"),
        ("v --json c.pth", "--json c.pth would overwrite the file of --checkpoint"),
        ("v --json out.json --segments v/../out.json", "--json and --segments would both write"),
        ("v --json d.csv --csv d.csv", "--json and --csv would both write d.csv"),
    ],
)
def test_a_file_is_not_written_twice_and_no_input_is(words, reported):
    with pytest.raises(ValueError, match=reported):
        check(*words.split())


def test_pictures_of_two_flags_do_not_replace_each_other():
    paths = output_paths("out", ["v/a.mp4"], ".png")
    with pytest.raises(ValueError, match=r"--curve and --heatmap would both write out/a.png"):
        check("v/a.mp4", curve=paths, heatmap=paths)


def test_standard_output_and_the_whole_picture_are_no_files():
    check("v", "--json", "-", "--boxes", "full")
    with pytest.raises(ValueError, match="--json - and --csv - would be printed among each other"):
        check("v", "--json", "-", "--csv", "-")
    check("v", "--json", "/dev/null")


def test_what_cannot_be_written_is_told_at_once_and_nothing_is_created(folder, monkeypatch):
    with pytest.raises(ValueError, match="--scores v is a folder; name a file"):
        check_writable("--scores", Path("v"))
    with pytest.raises(ValueError, match=r"list.txt is not a folder"):
        check_writable("--scores", Path("list.txt/new/s.npz"))
    before = sorted(folder.rglob("*"))
    check_writable("--scores", Path("new/deep/s.npz"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionError, match="--scores new/s.npz: the folder .* cannot be written"):
        check_writable("--scores", Path("new/s.npz"))
    with pytest.raises(PermissionError, match=r"--json list.txt is write-protected"):
        check_writable("--json", Path("list.txt"), in_place=True)
    assert sorted(folder.rglob("*")) == before
