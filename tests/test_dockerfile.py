"""The image: a linter reads the Dockerfile, and what is copied into the image suffices to run."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from video_files import numbered_frames, write_video

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
EVERYTHING, *KEPT = [
    line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
]


def kept_files():
    """The files that `COPY . .` copies: all but what .dockerignore leaves out, which names the exceptions to that."""
    return [path for line in KEPT if line[0] == "!" for path in sorted(ROOT.glob(line[1:].rstrip("/")))]


def test_the_linter_has_nothing_to_say():
    linter = Path(sys.executable).parent / "hadolint"
    if not linter.is_file():
        pytest.skip("hadolint is not installed (requirements-dev.txt)")
    said = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr


def test_only_what_runs_is_copied():
    assert EVERYTHING == "*"
    assert all(list(ROOT.glob(line[1:].rstrip("/"))) for line in KEPT if line[0] == "!"), "each line names something"
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages | {"recipes", "scripts", "weights"} == {path.name for path in kept_files() if path.is_dir()}
    for names in re.findall(r"^COPY (.+) \./$", DOCKERFILE, re.MULTILINE):
        assert set(names.split()) <= {path.name for path in kept_files()}


def test_the_commands_of_the_image_run_in_what_is_copied(tmp_path):
    for path in kept_files():
        if path.is_dir():
            shutil.copytree(path, tmp_path / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, tmp_path)
    for module in re.findall(r"python -m ([\w.]+)", DOCKERFILE):
        assert (tmp_path / f"{module.replace('.', '/')}.py").is_file()
    default = json.loads(re.search(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)[1])
    write_video(tmp_path / "v.mp4", numbered_frames(16))
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text("v.mp4 0\n" * 16 + "v.mp4 1\n" * 16)
    train = ["run_class_finetuning.py", "--recipe", "custom/small", "--data_path", ".", "--dry_run"]
    for words in (default, train):
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
