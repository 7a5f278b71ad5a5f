"""Dataloader workers: batches reach the parent, or the parent gets the reason."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from datasets.worker import sharing_explained, start_worker

ROOT = Path(__file__).parent.parent
LOAD = """
import sys
import torch
from torch.utils.data import DataLoader
from datasets.worker import sharing_explained, start_worker
loader = DataLoader(torch.arange(2 * 10**6).reshape(4, -1), num_workers=1, worker_init_fn=start_worker)
with sharing_explained():
    print(sum(len(batch) for batch in loader))
"""


def test_a_long_temporary_folder_does_not_stop_the_batches(tmp_path):
    folder = tmp_path / ("x" * max(1, 110 - len(str(tmp_path))))
    folder.mkdir()
    environment = os.environ | {"TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", LOAD], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "4\n", done.stderr


def test_without_a_short_folder_the_error_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 110)))
    monkeypatch.setattr("datasets.worker.SHORT_FOLDERS", (str(tmp_path / "nowhere"),))
    loader = DataLoader(torch.arange(4), num_workers=1, worker_init_fn=start_worker, timeout=120)
    with pytest.raises(OSError, match="TMPDIR .* --num_workers 0"):
        list(loader)


def lose(samples):
    return lambda: samples  # which cannot be pickled


def test_a_batch_that_cannot_be_sent_is_an_error_and_not_waited_for():
    loader = DataLoader(torch.arange(4), num_workers=1, collate_fn=lose, worker_init_fn=start_worker, timeout=120)
    with pytest.raises(Exception, match="(?s)pickle.*lose"):
        list(loader)


MOUNT = "mount -t tmpfs -o size=2m tmpfs /dev/shm"


def may_mount():
    return sys.platform == "linux" and subprocess.run(["unshare", "-rm", "sh", "-c", MOUNT]).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="mounts a small /dev/shm, for itself alone")
def test_a_small_shared_memory_is_told_with_its_remedies():
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{MOUNT} && exec "$0" -c "$1"', sys.executable, LOAD],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "--num_workers" in said and "--shm-size" in said


@pytest.mark.parametrize(
    "text",
    [
        "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)",
        "DataLoader worker (pid 1) is killed by signal: Bus error. It is possible that dataloader's workers are out "
        "of shared memory. Please try to raise your shared memory limit.",
    ],
)
def test_what_pytorch_says_of_shared_memory_is_recognised(text):
    with pytest.raises(RuntimeError, match="--shm-size"), sharing_explained():
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="^No space left on device$"), sharing_explained():
        raise RuntimeError("No space left on device")
