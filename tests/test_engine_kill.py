"""Killed without warning at twenty random moments: the run resumes and ends with the weights of one left alone."""

import logging
import os
import random
import signal
import time
import traceback
from itertools import pairwise

import pytest
import torch
from engine_standins import MemoryVideos, assert_equal_states, train
from forked import run_function

from engines.checkpoint import find_checkpoints, read_checkpoint

KILLS = 20
EPOCHS = 3
BATCH = 4
VIDEOS = 160  # 40 updates of an epoch


class SlowVideos(MemoryVideos):
    """A step takes a few milliseconds, as does its checkpoint, so kills hit both.

    Some seconds after the first update, SIGALRM ends the process as SIGKILL does: in the middle of anything, and
    without running any code. No other process has to be awake for that, so a busy machine changes nothing.
    """

    def __init__(self, seconds):
        super().__init__(VIDEOS, noise=0.3)
        self.seconds, self.accesses = seconds, 0

    def __getitem__(self, index):
        self.accesses += 1
        if self.seconds and self.accesses == BATCH + 1:  # the checkpoint of the first update is written
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        time.sleep(0.001)
        return super().__getitem__(index)


def run(folder, seconds=None):
    flags = ("--save_every_steps", "1", "--model_ema")
    return train(folder, *flags, epochs=EPOCHS, batch_size=BATCH, dataset=SlowVideos(seconds))


def run_killed(folder, seconds):
    """Train in a fork, which is killed; twenty imports of torch would take minutes. Return its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(folder, seconds)
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on as a second pytest
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


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
    began = time.monotonic()
    straight = run(tmp_path / "straight")
    update = (time.monotonic() - began) / (EPOCHS * VIDEOS // BATCH)
    moments = random.Random(0)
    folder, steps, leftovers = tmp_path / "killed", [0], 0
    for kill in range(KILLS):
        status = run_killed(folder, moments.uniform(0.1, 4) * update)
        assert status == -signal.SIGALRM, f"the run ended with {status} after {kill} kills: make it longer"
        leftovers += len(list(folder.glob(".*.tmp")))
        steps.append(progress(folder))
    assert all(a < b for a, b in pairwise(steps)) and steps[-1] < EPOCHS * VIDEOS // BATCH, steps
    resumed = run(folder)
    assert_equal_states(straight, resumed)
    for a, b in zip(straight.ema.module.parameters(), resumed.ema.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not list(folder.glob("*.broken")), "no checkpoint was ever unreadable"
    assert leftovers > 0, "some kills came while a checkpoint was written"
    assert not list(folder.glob(".*.tmp")), "what they left unfinished is gone"
