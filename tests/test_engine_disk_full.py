"""A full disk: reported before anything is lost, with existing checkpoints intact."""

import errno
import os
import shutil
import subprocess
from types import SimpleNamespace

import pytest
import torch
from engine_standins import TinyModel, classify, make_args

from common.files import atomic_write, require_space, tensor_bytes
from engines.checkpoint import read_checkpoint, save_checkpoint
from engines.distributed import Context
from engines.logs import RunLog
from engines.state import create_training_state


def make_state(folder, width=8):
    args = make_args("--output_dir", str(folder), "--lr", "1.0")
    return create_training_state(classify(TinyModel(width=width)), args, Context(), steps_per_epoch=4)


def save(state, folder, step):
    state.step = step
    save_checkpoint(state, str(folder), Context())


def steps_on_disk(folder):
    return {path.name: read_checkpoint(path)["step"] for path in folder.iterdir()}


def test_too_little_space_is_told_before_anything_is_written(tmp_path, monkeypatch):
    state = make_state(tmp_path)
    save(state, tmp_path, 1), save(state, tmp_path, 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(torch, "save", lambda *_: pytest.fail("written in spite of it"))
    with pytest.raises(OSError, match=r"checkpoint-latest\.pth cannot be written.*Free some space") as error:
        save(state, tmp_path, 3)
    assert error.value.errno == errno.ENOSPC
    assert steps_on_disk(tmp_path) == {"checkpoint-latest.pth": 2, "checkpoint-previous.pth": 1}


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_disk_that_fills_up_while_writing(tmp_path, monkeypatch, call):
    state = make_state(tmp_path)
    save(state, tmp_path, 1)

    def full(*_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(*((torch, "save") if call == "write" else (os, "fsync")), full)
    with pytest.raises(OSError, match=r"checkpoint-latest\.pth.*unchanged") as error:
        save(state, tmp_path, 2)
    assert error.value.errno == errno.EDQUOT
    assert steps_on_disk(tmp_path) == {"checkpoint-latest.pth": 1}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("asked", [True, False], ids=["asked before", "while writing"])
def test_a_disk_that_is_really_full(small_disk, monkeypatch, asked):
    state = make_state(small_disk, width=256)  # 1.1 MiB a file
    if not asked:
        monkeypatch.setattr("engines.checkpoint.require_space", lambda *_: None)
    with pytest.raises(OSError, match="Free some space") as error:
        for step in range(1, 5):
            save(state, small_disk, step)
            (small_disk / f"other{step}").write_bytes(bytes(1_200_000))
    assert error.value.errno == errno.ENOSPC
    for other in small_disk.glob("other*"):
        other.unlink()
    there = steps_on_disk(small_disk)
    assert there["checkpoint-latest.pth"] >= 1
    save(state, small_disk, 9)
    assert steps_on_disk(small_disk)["checkpoint-latest.pth"] == 9


def test_the_size_asked_for_is_that_of_the_file(tmp_path):
    state = make_state(tmp_path, width=128)
    save(state, tmp_path, 1)
    size = (tmp_path / "checkpoint-latest.pth").stat().st_size
    needed = tensor_bytes(state.state_dict())
    assert needed <= size <= needed + (1 << 20)
    require_space(tmp_path / "more", 0)
    with pytest.raises(OSError, match="MiB needed"):
        require_space(tmp_path / "more", 1 << 60)


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError, match="^.Errno 13. no$"), atomic_write(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "no")


def test_tensorboard_on_a_full_disk_is_told_once_and_the_run_goes_on(small_disk, tmp_path, caplog, capfd):
    log = RunLog(str(tmp_path), str(small_disk / "events"))
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    for step in range(30):
        log.scalars("train", {f"loss{i}": 1.0 for i in range(200)}, step)
        log.epoch({"epoch": step})
    log.close()
    reported = [record.message for record in caplog.records if "TensorBoard files cannot be written" in record.message]
    assert len(reported) == 1 and "No space left" in reported[0]
    assert "Traceback" not in capfd.readouterr().err
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 30


def test_a_folder_for_tensorboard_that_cannot_be_made_is_told(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    log = RunLog(str(tmp_path), str(tmp_path / "file" / "events"))
    log.scalars("train", {"loss": 1.0}, 1)
    log.close()
    assert "TensorBoard files cannot be written" in caplog.text
