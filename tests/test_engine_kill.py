"""Kill -9 at twenty random moments: the run always resumes and ends with the weights of an uninterrupted one."""

import logging
import os
import random
import signal
import time
import traceback

import pytest
import torch
from engine_standins import MemoryVideos, assert_equal_states, train
from forked import run_function

from engines.checkpoint import LATEST, find_checkpoints, read_checkpoint

KILLS = 20
EPOCHS = 3
VIDEOS = 160  # 40 updates of an epoch


class SlowVideos(MemoryVideos):
    """A step takes a few milliseconds, as does its checkpoint, so kills hit both."""

    def __getitem__(self, index):
        time.sleep(0.001)
        return super().__getitem__(index)


def run(folder):
    return train(
        folder, "--save_every_steps", "1", "--model_ema", epochs=EPOCHS, dataset=SlowVideos(VIDEOS, noise=0.3)
    )


def start(folder):
    """Start a process that trains until it is killed or finishes with status 0; return its process id."""
    child = os.fork()  # not a new interpreter: twenty imports of torch would take minutes
    if child == 0:
        status = 1
        try:
            run(folder)
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on as a second pytest
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def wait(child, seconds):
    """Return the exit status of `child`; None if it is still running after some seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def written(folder):
    """Return the time of the latest checkpoint; 0 if there is none at the moment."""
    try:
        return (folder / LATEST).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def progress(folder):
    """Read all checkpoints, newest first; return the steps done in the newest, or 0."""
    steps = [read_checkpoint(path)["step"] for path in find_checkpoints(folder)]
    return steps[0] if steps else 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_twenty_kills(tmp_path):
    status, log = run_function(kill_twenty_times, tmp_path, folder=tmp_path)
    assert status == 0, log


def kill_twenty_times(tmp_path):
    logging.getLogger().setLevel(logging.WARNING)
    straight = run(tmp_path / "straight")
    moments = random.Random(0)
    folder, kills, steps, leftovers = tmp_path / "killed", 0, [0], 0
    while kills < KILLS:
        child = start(folder)
        # A child that has not begun to train yet is not worth a kill: wait for its first checkpoint.
        before = written(folder)
        while wait(child, 0.002) is None and written(folder) in (before, 0):
            pass
        status = wait(child, moments.uniform(0, 0.1))
        assert status is None, f"the run ended with {status} after {kills} kills: make it longer"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
        leftovers += len(list(folder.glob(".*.tmp")))
        steps.append(progress(folder))
    assert steps == sorted(steps) and steps[-1] < EPOCHS * VIDEOS // 4
    resumed = run(folder)
    assert_equal_states(straight, resumed)
    for a, b in zip(straight.ema.module.parameters(), resumed.ema.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not list(folder.glob("*.broken")), "no checkpoint was ever unreadable"
    assert leftovers > 0, "some kills came while a checkpoint was written"
    assert not list(folder.glob(".*.tmp")), "what they left unfinished is gone"
