"""The guard: a reader that hangs or crashes costs its file, and nothing else."""

import logging
import pickle
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from data_flags import data_flags
from treacherous import Treacherous
from video_files import frame_numbers, numbered_frames, write_video

from datasets.build import build_dataset, build_loader
from datasets.readers import Guard, UnreadableVideoError, VideoFile
from datasets.video_cls import VideoClsDataset


@pytest.fixture
def guard():
    guard = Guard(2)
    yield guard
    guard.close()


def test_frames_come_through(tmp_path, guard):
    path = str(write_video(tmp_path / "v.mp4", numbered_frames(30, 64, 128)))
    for indices in ([3, 3, 20], list(range(30)), [7]):
        reader = guard.open(path, partial(VideoFile, path))
        assert len(reader) == 30
        frames = reader.read(indices)
        assert frames.shape == (len(indices), 64, 128, 3) and frame_numbers(frames) == indices
    helper = guard._process.pid
    with pytest.raises(UnreadableVideoError, match="no such file"):
        guard.open("x.mp4", partial(VideoFile, "x.mp4"))
    assert guard._process.pid == helper


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("aborts.mp4", r"the decoder crashed \(SIGABRT\)"),
        ("exits.mp4", r"the decoder crashed \(exit status 3\)"),
        ("hangs.mp4", r"longer than 2 s \(--read_timeout\)"),
    ],
)
def test_a_reader_that_does_not_come_back_is_told_and_the_next_file_read(guard, path, said):
    began = time.monotonic()
    with pytest.raises(UnreadableVideoError, match=f"cannot read {path}: .*{said}"):
        guard.open(path, partial(Treacherous, path)).read([0])
    assert time.monotonic() - began < 30
    reader = guard.open("good.mp4", partial(Treacherous, "good.mp4"))
    assert frame_numbers(reader.read([4, 5])) == [4, 5]


def test_other_errors_and_readers_out_of_date_are_not_hidden(guard):
    old = guard.open("fails.mp4", partial(Treacherous, "fails.mp4"))
    with pytest.raises(ZeroDivisionError, match="a fault of ours"):
        old.read([0])
    guard.open("good.mp4", partial(Treacherous, "good.mp4"))
    with pytest.raises(RuntimeError, match="fails.mp4 is no longer open"):
        old.read([0])


class TreacherousDataset(VideoClsDataset):
    """Opens stand-ins in the place of files."""

    def opener(self, record):
        return partial(Treacherous, record.path)


def treacherous_loader(root, mode, names, *flags):
    for name in names:
        (root / name).touch()
    for part in ("train", "val"):
        (root / f"{part}.csv").write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)))
    args = data_flags(root, *flags)
    dataset = build_dataset(mode, args)
    dataset.__class__ = TreacherousDataset
    return build_loader(dataset, mode, args)


@pytest.mark.parametrize("mode", ["train", "validation"])
def test_an_epoch_names_the_guilty_and_goes_on(mode, tmp_path, caplog):
    names = ["a.mp4", "aborts.mp4", "b.mp4", "c.mp4", "hangs.mp4", "d.mp4", "e.mp4", "f.mp4"]
    flags = ["--num_workers", "2", "--read_timeout", "2", "--batch_size", "4"]
    loader = treacherous_loader(tmp_path, mode, names, *flags)
    with caplog.at_level(logging.WARNING, "datasets.loader"):
        batches = list(loader)
    told = [record.getMessage() for record in caplog.records if record.name == "datasets.loader"]
    assert len(told) == 2 and "SIGABRT" in " ".join(told) and "longer than 2 s" in " ".join(told)
    assert set(loader.unreadable) == {1, 4}
    read = torch.cat([batch["indices"] for batch in batches]).tolist()
    assert len(read) == (8 if mode == "train" else 6) and not {1, 4} & set(read)
    labels = torch.cat([batch["targets"] for batch in batches]).tolist()
    assert labels == [loader.dataset.records[i].target for i in read]


def test_the_guard_does_not_change_the_samples(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, size=(20, 32, 48, 3), dtype=np.uint8)
    for i in range(4):
        write_video(tmp_path / f"{i}.mp4", np.roll(frames, i, axis=0))
    (tmp_path / "train.csv").write_text("".join(f"{i}.mp4 0\n" for i in range(4)))
    augmented = ["--aa", "rand-m7-n4-mstd0.5-inc1", "--num_sample", "2", "--nb_classes", "2"]
    plain, guarded = (
        build_dataset("train", data_flags(tmp_path, *augmented, "--read_timeout", limit)) for limit in ("0", "60")
    )
    for i in range(4):
        assert torch.equal(plain[i].clips, guarded[i].clips)
    copy = pickle.loads(pickle.dumps(guarded))
    assert torch.equal(copy[1].clips, plain[1].clips)


def hang(root):
    names = ["hangs.mp4", *(f"{i}.mp4" for i in range(7))]
    flags = ["--num_workers", "2", "--read_timeout", "4", "--batch_size", "1"]
    for _ in treacherous_loader(root, "validation", names, *flags):
        raise AssertionError("the first file cannot be read before the time is over")


def descendants(pid):
    """Processes that a process has started, and those started by them."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return children + [far for child in children for far in descendants(child)]


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in Linux's /proc")
def test_workers_and_decoders_stop_when_the_run_is_killed(tmp_path):
    command = f"import sys; sys.path[:0] = {sys.path!r}; from test_guard import *; hang(Path({str(tmp_path)!r}))"
    run = subprocess.Popen([sys.executable, "-c", command])
    wait_until(lambda: len(descendants(run.pid)) >= 4)
    started = descendants(run.pid)
    run.kill()
    run.wait()
    wait_until(lambda: not any(map(running, started)))


def wait_until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
