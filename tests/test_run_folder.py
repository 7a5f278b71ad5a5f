"""The output folder: one run at a time, the same command resumes, and files of different runs are separate."""

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading

import pytest
from engine_standins import Interrupted, assert_equal_states, make_args, run_processes, train

from engines import run_folder
from engines.checkpoint import read_checkpoint, read_newest, resume_training
from engines.distributed import Context, close_distributed
from engines.run_folder import LOCK, claim, read_record
from engines.runner import start_run

FORK = multiprocessing.get_context("fork")


def hold(folder, host, ready):
    """Hold the folder until killed, as a run on `host` would."""
    socket.gethostname = lambda: host
    claim(str(folder), Context())
    ready.set()
    signal.pause()


@pytest.fixture
def holder():
    """Start processes that have a folder; they are killed at the end."""
    children = []

    def start(folder, host=None):
        ready = FORK.Event()
        child = FORK.Process(target=hold, args=(folder, host or socket.gethostname(), ready), daemon=True)
        child.start()
        children.append(child)
        assert ready.wait(60)
        return child

    yield start
    for child in children:
        child.kill()
        child.join()


@pytest.mark.parametrize("host", [None, "gpu07"], ids=["here", "elsewhere"])
def test_a_second_run_is_refused_and_names_host_and_process(tmp_path, holder, host):
    child = holder(tmp_path, host)
    with pytest.raises(SystemExit) as stop:
        claim(str(tmp_path), Context(), patience=0.3)
    reported = str(stop.value.code)
    assert f"process {child.pid} on {host or socket.gethostname()}" in reported and "another --output_dir" in reported


@pytest.mark.parametrize("flag", ["--resume=", "--eval"])
def test_nothing_is_written_by_the_run_that_is_refused(tmp_path, holder, flag, monkeypatch):
    holder(tmp_path)
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr("engines.run_folder._LOCAL_PATIENCE", 0)
    with pytest.raises(SystemExit, match="is in use by process"):
        start_run(make_args("--output_dir", str(tmp_path), flag))
    assert sorted(os.listdir(tmp_path)) == before


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path, holder):
    child = holder(tmp_path)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert json.loads((tmp_path / LOCK).read_text())["process"] == child.pid, "its name is still there"
    claim(str(tmp_path), Context(), patience=0)
    claim(str(tmp_path), Context(), patience=0)
    assert json.loads((tmp_path / LOCK).read_text())["process"] == os.getpid()


def test_a_run_waits_for_one_that_is_ending(tmp_path, holder):
    child = holder(tmp_path)
    threading.Timer(0.3, child.kill).start()
    claim(str(tmp_path), Context(), patience=60)


def test_a_folder_that_was_deleted_is_locked_again(tmp_path):
    folder = tmp_path / "out"
    claim(str(folder), Context())
    shutil.rmtree(folder)
    claim(str(folder), Context())
    assert (folder / LOCK).is_file()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    claim(str(tmp_path), Context(), patience=0)
    assert "cannot be locked" in caplog.text and "No locks available" in caplog.text


def test_a_folder_that_is_a_file_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/below"):
        with pytest.raises(SystemExit, match=f"--output_dir .*{name} cannot be written"):
            claim(str(tmp_path / name), Context())


def _refused(rank, folder):
    run_folder._LOCAL_PATIENCE = 0
    with pytest.raises(SystemExit) as stop:
        start_run(make_args("--output_dir", str(folder / "run")))
    (folder / f"rank{rank}").write_text(str(stop.value.code))
    close_distributed()


def test_all_ranks_end_and_one_of_them_says_why(tmp_path, holder):
    child = holder(tmp_path / "run")
    run_processes(_refused, 2, tmp_path)
    assert f"process {child.pid} on" in (tmp_path / "rank0").read_text() and (tmp_path / "rank1").read_text() == "1"


@pytest.fixture
def command(monkeypatch):
    """Set the words of the command line that a run believes it was started with."""
    return lambda *words: monkeypatch.setattr(sys, "argv", ["run.py", *words])


def stopped(folder, *flags, at):
    """Train until SIGTERM comes at the access `at`; return the exit status."""
    with pytest.raises(SystemExit) as stop:
        train(folder, *flags, dataset=Interrupted(12, noise=0.3, at=at))
    return stop.value.code


@pytest.mark.parametrize("flag", [(), ("--no_auto_resume",)], ids=["", "no_auto_resume"])
def test_resume_file_goes_on_from_the_folder(tmp_path, command, flag):
    """Three updates of four videos an epoch: stopped twice on the way, every update is done once."""
    straight = train(tmp_path / "straight")
    stopped(tmp_path / "first", at=5)  # two updates
    file = shutil.copy(tmp_path / "first" / "checkpoint-latest.pth", tmp_path / "start.pth")
    flags = ("--resume", str(file), *flag)
    command(*flags)
    assert stopped(tmp_path / "out", *flags, at=1) == 75
    assert read_checkpoint(tmp_path / "out" / "checkpoint-latest.pth")["step"] == 3
    assert stopped(tmp_path / "out", *flags, at=5) == 75
    assert read_checkpoint(tmp_path / "out" / "checkpoint-latest.pth")["step"] == 5
    assert_equal_states(straight, train(tmp_path / "out", *flags))
    assert not list(tmp_path.glob("out/earlier-*"))


def test_resume_file_goes_on_after_a_kill_too_and_begins_again_when_told(tmp_path, caplog):
    stopped(tmp_path / "first", at=5)
    flags = ("--resume", str(tmp_path / "first" / "checkpoint-latest.pth"))
    train(tmp_path / "out", *flags, until=1)
    dataset = Interrupted(12, noise=0.3, at=-1)
    train(tmp_path / "out", *flags, dataset=dataset)
    assert dataset.accesses == 12, "the second epoch alone"
    assert "was started from --resume" in caplog.text
    dataset = Interrupted(12, noise=0.3, at=-1)
    train(tmp_path / "out", *flags, "--no_auto_resume", dataset=dataset)
    assert dataset.accesses == 16, "from the file on"
    assert read_checkpoint(tmp_path / "out" / "earlier-1" / "checkpoint-latest.pth")["epoch"] == 2


def test_another_resume_file_is_another_run(tmp_path):
    for name in ("first", "second"):
        stopped(tmp_path / name, at=5)
    train(tmp_path / "out", "--resume", str(tmp_path / "first" / "checkpoint-latest.pth"))
    dataset = Interrupted(12, noise=0.3, at=-1)
    train(tmp_path / "out", "--resume", str(tmp_path / "second" / "checkpoint-latest.pth"), dataset=dataset)
    assert dataset.accesses == 16 and (tmp_path / "out" / "earlier-1" / "log.txt").is_file()


def test_no_auto_resume_goes_on_where_the_same_command_was_stopped_and_nowhere_else(tmp_path, command, caplog):
    straight = train(tmp_path / "straight")
    flags = ("--no_auto_resume",)
    command(*flags)
    train(tmp_path / "out", *flags, until=1)  # not stopped
    assert stopped(tmp_path / "out", *flags, at=5) == 75
    assert read_checkpoint(tmp_path / "out" / "checkpoint-latest.pth")["step"] == 2, "begun afresh"
    command(*flags, "--lr", "1")
    assert stopped(tmp_path / "out", *flags, at=1) == 75
    assert read_checkpoint(tmp_path / "out" / "checkpoint-latest.pth")["step"] == 1, "another command begins afresh"
    assert_equal_states(straight, train(tmp_path / "out", *flags))
    assert "was stopped by a signal" in caplog.text


def test_without_a_folder_nothing_is_promised(caplog):
    assert stopped("", at=5) == 128 + signal.SIGTERM
    assert "nothing of this run will be saved" in caplog.text and "nothing is kept" in caplog.text
    assert "resumes" not in caplog.text


def test_a_stop_before_anything_is_saved_promises_no_checkpoint(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("engines.runner.RunLog", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        train(tmp_path)
    assert stop.value.code == 75 and "there is no checkpoint yet" in caplog.text


def test_a_new_run_in_a_used_folder_never_takes_the_earlier_weights(tmp_path):
    train(tmp_path, "--save_ckpt_freq", "1")
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name[0] in "cl"}
    assert {"checkpoint-best.pth", "checkpoint-0.pth", "log.txt"} <= set(files)
    stopped(tmp_path, "--no_auto_resume", "--seed", "1", at=1)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-latest.pth"}
    assert not (tmp_path / "log.txt").exists()
    kept = {path.name: path.read_bytes() for path in (tmp_path / "earlier-1").iterdir()}
    assert {name: kept[name] for name in files if name != LOCK} == {n: b for n, b in files.items() if n != LOCK}

    (tmp_path / "checkpoint-latest.pth").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="none of the checkpoints"):  # as --eval does
        read_newest(str(tmp_path))
    with pytest.raises(ValueError, match="none of the checkpoints"):
        train(tmp_path)


def test_going_back_in_a_run_sets_later_states_aside(tmp_path):
    train(tmp_path, "--save_ckpt_freq", "1", epochs=3)
    resumed = train(
        tmp_path, "--save_ckpt_freq", "1", "--resume", str(tmp_path / "checkpoint-0.pth"), epochs=3, until=1
    )
    assert resumed.epoch == 1
    assert {"checkpoint-latest.pth", "checkpoint-2.pth"} <= {path.name for path in (tmp_path / "earlier-1").iterdir()}
    assert read_newest(str(tmp_path))[1]["epoch"] == 1
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 3, "the first epoch's line is this run's"


def test_the_latest_file_of_the_folder_can_be_named(tmp_path):
    train(tmp_path, until=1)
    train(tmp_path, "--resume", str(tmp_path / "checkpoint-latest.pth"))
    assert not list(tmp_path.glob("earlier-*")) and len((tmp_path / "log.txt").read_text().splitlines()) == 2


def test_weights_that_would_be_moved_are_refused(tmp_path):
    state = train(tmp_path)
    file = tmp_path / "checkpoint-best.pth"
    before = {path: path.read_bytes() for path in tmp_path.glob("checkpoint-*")}
    args = make_args("--output_dir", str(tmp_path), "--no_auto_resume", finetune=str(file))
    with pytest.raises(ValueError, match=r"--finetune .*checkpoint-best.*another --output_dir"):
        resume_training(state, args, Context())
    assert {path: path.read_bytes() for path in tmp_path.glob("checkpoint-*")} == before


def test_a_record_that_cannot_be_read_is_none(tmp_path):
    assert read_record(str(tmp_path)) == {}
    for text in ("", "[1]", "{"):
        (tmp_path / "run.json").write_text(text)
        assert read_record(str(tmp_path)) == {}
