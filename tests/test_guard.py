"""The guard: a reader that hangs or crashes costs its file, and nothing else."""

import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from data_flags import data_flags
from treacherous import Treacherous
from video_files import frame_numbers, numbered_frames, write_video

from common.memory import LARGE_BYTES
from datasets.build import build_dataset, build_loader
from datasets.readers import Guard, UnreadableVideoError, VideoFile, new_frames, open_reader
from datasets.readers.shared_frames import SharedFrames, anonymous_file
from datasets.video_cls import VideoClsDataset

ROOT = Path(__file__).parent.parent


@pytest.fixture
def guard():
    guard = Guard(2)
    yield guard
    guard.close()


def test_frames_come_through(tmp_path, guard):
    path = str(write_video(tmp_path / "v.mp4", numbered_frames(30, 64, 128)))
    for indices in ([3, 3, 20], list(range(30)), [7]):
        reader = guard.open(path, partial(VideoFile, path))
        assert len(reader) == 30 and reader.rate == VideoFile(path).rate
        frames = reader.read(indices)
        assert frames.shape == (len(indices), 64, 128, 3) and frame_numbers(frames) == indices
    helper = guard._process.pid
    with pytest.raises(UnreadableVideoError, match="no such file"):
        guard.open("x.mp4", partial(VideoFile, "x.mp4"))
    assert guard._process.pid == helper


def test_videos_are_decoded_into_the_memory_that_the_helper_shares(tmp_path):
    path = str(write_video(tmp_path / "v.mp4", numbered_frames(30, 64, 128)))
    shared = SharedFrames(anonymous_file())
    for indices in ([3], [4, 5, 20]):
        with new_frames.allocated_by(shared.allocate):
            frames = VideoFile(path).read(indices)
        assert np.shares_memory(frames, shared.view(frames.shape))
        assert frame_numbers(shared.view(shared.store(frames))) == indices
    assert not np.shares_memory(VideoFile(path).read([3]), shared.view(frames.shape))


def test_a_part_of_the_shared_frames_is_stored_as_a_part():
    shared = SharedFrames(anonymous_file())
    frames = shared.allocate((4, 8, 8, 3))
    frames[:] = np.arange(frames.size).reshape(frames.shape) % 251
    cropped = frames[::2, :4, :4].copy()
    assert np.array_equal(shared.view(shared.store(frames[::2, :4, :4])), cropped)


def test_frames_stay_until_others_are_read(tmp_path, guard):
    path = str(write_video(tmp_path / "v.mp4", numbered_frames(30, 64, 128)))
    frames = guard.open(path, partial(VideoFile, path)).read([3, 4])
    guard.open(path, partial(VideoFile, path))
    assert frame_numbers(frames) == [3, 4]


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
    assert time.monotonic() - began < 120
    reader = guard.open("good.mp4", partial(Treacherous, "good.mp4"))
    assert frame_numbers(reader.read([4, 5])) == [4, 5]


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("name", ["fails to open.mp4", "fails to count.mp4", "fails to read.mp4"])
def test_whatever_a_reader_raises_names_its_file(guard, guarded, name):
    with pytest.raises(UnreadableVideoError, match=f"cannot read {name}: ZeroDivisionError: a fault of ours"):
        reader = open_reader(name, partial(Treacherous, name), guard if guarded else None)
        len(reader)
        reader.read([0])
    reader = open_reader("good.mp4", partial(Treacherous, "good.mp4"), guard if guarded else None)
    assert frame_numbers(reader.read([4, 5])) == [4, 5]


def test_a_request_that_the_helper_cannot_load_names_its_file(guard):
    with pytest.raises(UnreadableVideoError, match="cannot read x.mp4: ZeroDivisionError: a fault of ours"):
        guard.open("x.mp4", Unloadable())


class Unloadable:
    """What opens nothing: loading it fails."""

    def __call__(self):
        raise NotImplementedError

    def __reduce__(self):
        return Treacherous("fails to read.mp4").read, ([0],)


def test_readers_out_of_date_are_told(guard):
    old = guard.open("a.mp4", partial(Treacherous, "a.mp4"))
    guard.open("good.mp4", partial(Treacherous, "good.mp4"))
    with pytest.raises(RuntimeError, match="a.mp4 is no longer open"):
        old.read([0])


def test_a_reader_outlives_its_helper(guard):
    reader = guard.open("a.mp4", partial(Treacherous, "a.mp4"))
    os.kill(guard.helper, signal.SIGKILL)
    with pytest.raises(UnreadableVideoError, match="SIGKILL"):
        reader.read([0])
    assert frame_numbers(reader.read([7])) == [7]


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in Linux's /proc")


@needs_proc
def test_time_in_which_the_helper_is_stopped_does_not_count(guard):
    reader = guard.open("naps.mp4", partial(Treacherous, "naps.mp4"))

    def suspend():
        time.sleep(0.2)
        os.kill(guard.helper, signal.SIGSTOP)
        time.sleep(3)
        os.kill(guard.helper, signal.SIGCONT)

    helper = guard.helper
    with ThreadPoolExecutor() as threads:
        suspended = threads.submit(suspend)
        assert frame_numbers(reader.read([3])) == [3]
        suspended.result()
    assert guard.helper == helper


READ_SLOWLY = """
from functools import partial
from treacherous import Treacherous
from datasets.readers import Guard
reader = Guard(2).open("naps.mp4", partial(Treacherous, "naps.mp4"))
print("open", flush=True)
print(reader.read([3]).shape)
"""


def test_a_suspended_job_loses_no_file():
    command = f"import sys; sys.path[:0] = {sys.path!r}\n" + READ_SLOWLY
    job = subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert job.stdout.readline() == "open\n"
    time.sleep(0.2)
    os.killpg(job.pid, signal.SIGSTOP)
    time.sleep(3)
    os.killpg(job.pid, signal.SIGCONT)
    assert job.communicate(timeout=60)[0] == "(1, 32, 48, 3)\n"


@pytest.mark.parametrize(("naps", "read"), [(1, True), (2, False)])
def test_a_file_that_was_waited_for_is_tried_once_more(tmp_path, guard, naps, read):
    """As for one on a file system that does not answer for a while."""
    path = str(tmp_path / "stalls.mp4")
    Path(path).write_text("x" * naps)
    reader = guard.open(path, partial(Treacherous, path))
    if read:
        assert frame_numbers(reader.read([3])) == [3]
    else:
        with pytest.raises(UnreadableVideoError, match="longer than 2 s"):
            reader.read([3])


def test_files_that_hang_share_a_budget(monkeypatch):
    guard = Guard(1, budget=2)
    monkeypatch.setattr("datasets.readers.guard.LEAST_SHARE", 0.05)
    for said in ("1 s .--read_timeout.", "0.5 s .*reduced from 1 s", "0.25 s", "0.125 s", "0.1 s", "0.1 s"):
        with pytest.raises(UnreadableVideoError, match=f"longer than {said}"):
            guard.open("hangs.mp4", partial(Treacherous, "hangs.mp4")).read([0])
    guard.start_pass()
    with pytest.raises(UnreadableVideoError, match="longer than 1 s"):
        guard.open("hangs.mp4", partial(Treacherous, "hangs.mp4")).read([0])
    guard.close()


@needs_proc
def test_a_large_reading_leaves_no_memory_behind():
    guard = Guard(60)
    usual = guard.open("good.mp4", partial(Treacherous, "good.mp4"))
    usual.read([0])
    before = resident(guard.helper)
    large = guard.open("large.mp4", partial(Treacherous, "large.mp4"))
    assert large.read(range(17)).nbytes > 400e6
    during = resident(guard.helper)
    assert frame_numbers(guard.open("good.mp4", partial(Treacherous, "good.mp4")).read([5])) == [5]
    after = resident(guard.helper)
    guard.close()
    assert during - before > 400e6
    assert after - before < LARGE_BYTES + 50e6


def resident(pid):
    """Bytes that a process holds in memory."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) * 1024


def test_files_of_the_current_folder_are_not_taken_for_modules(tmp_path):
    downloads, elsewhere = tmp_path / "downloads", tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_video(write_downloads(downloads) / "v.mp4", numbered_frames(5, 32, 48))
    script = elsewhere / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = {[str(ROOT)]!r}\n"
        "from functools import partial\nfrom datasets.readers import Guard, VideoFile\n"
        "guard = Guard(60)\nprint(len(guard.open('v.mp4', partial(VideoFile, 'v.mp4'))))\nguard.close()\n"
    )
    run = subprocess.run([sys.executable, script], cwd=downloads, capture_output=True, text=True, timeout=120)
    assert run.stdout == "5\n", run.stderr


def write_downloads(folder):
    """Write a folder with files named like modules, which must not be imported."""
    folder.mkdir()
    for name in ("socket", "random", "numpy", "decord", "selectors"):
        (folder / f"{name}.py").write_text("raise SystemExit('a file of the current folder was run')\n")
    return folder


class TreacherousDataset(VideoClsDataset):
    """Opens stand-ins in the place of files."""

    def opener(self, record):
        return partial(Treacherous, record.path)


def treacherous_loader(root, mode, names, *flags, dist_timeout=600, **shards):
    for name in names:
        (root / name).write_text("-")
    for part in ("train", "val"):
        (root / f"{part}.csv").write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)))
    settings = replace(data_flags(root, *flags), dist_timeout=dist_timeout)
    dataset = build_dataset(mode, settings)
    dataset.__class__ = TreacherousDataset
    return build_loader(dataset, mode, settings, **shards)


@pytest.mark.parametrize("mode", ["train", "validation"])
def test_an_epoch_names_the_guilty_and_goes_on(mode, tmp_path, caplog):
    names = ["a.mp4", "aborts.mp4", "b.mp4", "c.mp4", "hangs.mp4", "d.mp4", "e.mp4", "f.mp4"]
    flags = ["--num_workers", "2", "--read_timeout", "2", "--batch_size", "4"]
    loader = treacherous_loader(tmp_path, mode, names, *flags)
    with caplog.at_level(logging.WARNING, "datasets.loader"):
        batches = list(loader)
    reported = [record.getMessage() for record in caplog.records if record.name == "datasets.loader"]
    assert len(reported) == 2 and "SIGABRT" in " ".join(reported) and "longer than 2 s" in " ".join(reported)
    assert set(loader.unreadable) == {1, 4}
    read = torch.cat([batch["indices"] for batch in batches]).tolist()
    assert len(read) == (8 if mode == "train" else 6) and not {1, 4} & set(read)
    labels = torch.cat([batch["targets"] for batch in batches]).tolist()
    assert labels == [loader.dataset.records[i].target for i in read]


def test_a_limit_that_would_outlast_the_other_processes_is_refused(tmp_path):
    def loader(limit, world_size):
        settings = replace(data_flags(tmp_path, "--read_timeout", limit, "--batch_size", "1"), dist_timeout=100)
        return build_loader(build_dataset("train", settings), "train", settings, world_size=world_size)

    write_video(tmp_path / "v.mp4", numbered_frames(5, 32, 48))
    (tmp_path / "train.csv").write_text("v.mp4 0\nv.mp4 1\n")
    with pytest.raises(ValueError, match="--read_timeout 60 .* 25 or less, or --dist_timeout to 240 or more"):
        loader("60", 2)
    for limit, world_size in (("60", 1), ("25", 2), ("0", 2)):
        loader(limit, world_size)


def test_the_limits_of_files_that_hang_on_one_rank_stay_below_the_timeout(tmp_path):
    """Seven of them for 2 s each would be 14, while the other process waits for 8 s at the end of the list."""
    dist_timeout, read, waited = 8, [], []
    names = [f"{'hangs' if i % 2 == 0 and i >= 6 else 'good'} {i}.mp4" for i in range(20)]
    for rank in (0, 1):
        (folder := tmp_path / str(rank)).mkdir()
        args = ["--num_workers", "1", "--read_timeout", "2", "--batch_size", "4"]
        shards = dict(rank=rank, world_size=2, dist_timeout=dist_timeout)
        loader = treacherous_loader(folder, "validation", names, *args, **shards)
        read.append(sum(len(batch["indices"]) for batch in loader))
        waited += [float(re.search(r"longer than ([\d.]+) s", said)[1]) for said in loader.unreadable.values()]
    assert read == [3, 10] and len(waited) == 7
    assert waited[0] == 2 and sum(waited) < dist_timeout


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


@needs_proc
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
