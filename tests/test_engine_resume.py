"""Resuming in the middle of an epoch, after a stop signal or a save, and with real dataloader workers."""

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_standins import (
    CLASSES,
    Interrupted,
    TinyModel,
    assert_equal_states,
    classify,
    make_args,
    run_processes,
    test_loader,
    train,
)
from PIL import Image

from datasets.arguments import DataSettings, add_data_arguments
from datasets.build import build_dataset, build_loader
from datasets.clip_dataset import SampleKey
from datasets.loader import TrainSampler
from datasets.worker import outlive_stop_signals
from engines import early_stop
from engines.checkpoint import read_checkpoint, resume_training
from engines.distributed import close_distributed
from engines.runner import fit, run_test, start_run
from engines.state import create_training_state
from engines.train import updates_per_epoch


def log_lines(folder):
    lines = [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]
    timed = ("train_clips_per_second", "train_data_time", "seconds")
    return [{key: value for key, value in line.items() if key not in timed} for line in lines]


WITH_EMA = ("--model_ema", "--model_ema_decay", "0.9")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder and the state of a run of two epochs, of three steps with four videos."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, train(folder, *WITH_EMA)


@pytest.mark.parametrize("update", range(6))
def test_a_stopped_run_ends_with_the_same_weights(undisturbed, tmp_path, update):
    """The signal comes while the data of a step are read."""
    folder, straight = undisturbed
    with pytest.raises(SystemExit) as stop:
        train(tmp_path / "parts", *WITH_EMA, dataset=Interrupted(12, noise=0.3, at=4 * update + 1))
    assert stop.value.code == early_stop.STOPPED == 75
    saved = read_checkpoint(tmp_path / "parts" / "checkpoint-latest.pth")
    assert (saved["epoch"], saved["step"], saved["epoch_step"]) == (update // 3, update + 1, update % 3 + 1)
    torch.rand(7)
    dataset = Interrupted(12, noise=0.3, at=-1)
    resumed = train(tmp_path / "parts", *WITH_EMA, dataset=dataset)
    assert dataset.accesses == 4 * (6 - (update + 1)), "nothing that was trained on before is read again"
    assert_equal_states(straight, resumed)
    for a, b in zip(straight.ema.module.parameters(), resumed.ema.module.parameters(), strict=True):
        assert torch.equal(a, b)
    first, second = log_lines(folder), log_lines(tmp_path / "parts")
    assert len(first) == len(second) == 2
    for a, b in zip(first, second, strict=True):
        assert a == pytest.approx(b, rel=1e-12)


def test_an_error_between_epochs_loses_only_the_updates_since_the_last_save(tmp_path):
    def fail():
        raise OSError("the machine fails")

    straight = train(tmp_path / "straight", count=20)
    with pytest.raises(OSError, match="the machine fails"):
        train(tmp_path / "parts", "--save_every_steps", "2", dataset=Interrupted(20, noise=0.3, at=19, action=fail))
    assert read_checkpoint(tmp_path / "parts" / "checkpoint-latest.pth")["epoch_step"] == 4
    assert read_checkpoint(tmp_path / "parts" / "checkpoint-previous.pth")["epoch_step"] == 2
    resumed = train(tmp_path / "parts", "--save_every_steps", "2", count=20)
    assert_equal_states(straight, resumed)


def test_accumulated_updates_are_resumed_at_the_right_batch(tmp_path):
    flags = ("--update_freq", "2")
    straight = train(tmp_path / "straight", *flags, count=24)
    with pytest.raises(SystemExit):
        train(tmp_path / "parts", *flags, dataset=Interrupted(24, noise=0.3, at=9))
    assert read_checkpoint(tmp_path / "parts" / "checkpoint-latest.pth")["epoch_step"] == 2
    assert_equal_states(straight, train(tmp_path / "parts", *flags, count=24))


def test_a_signal_in_the_validation_leaves_at_once_and_only_that_is_done_again(tmp_path, monkeypatch):
    straight = train(tmp_path / "straight")
    at_validation = Interrupted(7, at=3)
    monkeypatch.setattr("engine_standins.test_loader", lambda *_: test_loader(at_validation, 2))
    with pytest.raises(SystemExit) as stop:
        train(tmp_path / "parts")
    assert stop.value.code == 75 and not (tmp_path / "parts" / "log.txt").exists()
    monkeypatch.undo()
    dataset = Interrupted(12, noise=0.3, at=-1)
    assert_equal_states(straight, train(tmp_path / "parts", dataset=dataset))
    assert dataset.accesses == 12, "the first epoch was not trained again"
    assert log_lines(tmp_path / "straight") == log_lines(tmp_path / "parts")


def test_another_batch_keeps_the_share_of_the_epoch(tmp_path):
    with pytest.raises(SystemExit):
        train(tmp_path, dataset=Interrupted(24, at=11))  # after the third of six updates
    dataset = Interrupted(24, at=-1)
    state = train(tmp_path, "--epochs", "1", batch_size=8, dataset=dataset)
    assert dataset.accesses == 16 and state.step == 3, "one of three updates is done, the next three records"


@pytest.mark.parametrize("number", early_stop.SIGNALS)
def test_the_status_is_left_for_the_launcher(tmp_path, monkeypatch, number):
    """In training by both signals; in a test by SIGUSR1 alone: launchers send SIGTERM when a process has failed."""
    monkeypatch.setenv(early_stop.EXIT_FILE, str(tmp_path / "status"))
    with pytest.raises(SystemExit):
        train(tmp_path / "run", dataset=Interrupted(12, at=5, action=lambda: os.kill(os.getpid(), number)))
    assert (tmp_path / "status").read_text() == "75"
    (tmp_path / "status").unlink()
    args = make_args("--eval")
    loader = test_loader(Interrupted(6, at=2, action=lambda: os.kill(os.getpid(), number)))
    with pytest.raises(SystemExit) as stop:
        context, args = start_run(args)
        run_test(classify(TinyModel()), loader, args, context)
    assert stop.value.code == 75
    assert (tmp_path / "status").exists() == (number == signal.SIGUSR1)


def _stop_and_resume(rank, folder):
    """Only rank 1 receives the signal; both must stop after the same step."""
    dataset = Interrupted(24, noise=0.3, at=5 if rank == 1 else -1)
    with pytest.raises(SystemExit) as stop:
        train(folder / "parts", dataset=dataset)
    assert stop.value.code == 75 and dataset.accesses == 8
    resumed, straight = train(folder / "parts", count=24), train(folder / "straight", count=24)
    assert straight.step == 6
    assert_equal_states(straight, resumed)
    close_distributed()
    (folder / f"equal{rank}").touch()


def test_all_processes_stop_after_the_same_update(tmp_path):
    run_processes(_stop_and_resume, 2, tmp_path)
    assert (tmp_path / "equal0").exists() and (tmp_path / "equal1").exists()


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_sampler_begins_where_it_is_told(world_size):
    for rank in range(world_size):
        sampler = TrainSampler(20, rank=rank, world_size=world_size, seed=3)
        sampler.set_epoch(2)
        whole = list(sampler)
        sampler.set_epoch(2, start=4)
        assert list(sampler) == whole[4:] and whole[0] == SampleKey(whole[0].index, 2)
        assert len(sampler) == len(whole), "updates per epoch are counted from it"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(generator.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(root / f"{i}.png")
    for name in ("train", "val"):
        (root / f"{name}.csv").write_text("".join(f"{i}.png {i % CLASSES}\n" for i in range(16)))
    return root


def signal_all():
    """Send SIGTERM to this process and its workers, from another one, as launchers and schedulers do."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    assert len(processes) >= 3
    subprocess.run(["kill", "-TERM", *map(str, processes)], check=True)
    time.sleep(0.2)


def train_on_images(root, output_dir, *, stop_at=None):
    """Train with the data package's loaders and two workers that decode and augment."""
    parser = argparse.ArgumentParser()
    add_data_arguments(parser)
    words = ["--num_workers", "2", "--batch_size", "4", "--input_size", "32"]
    data_args = parser.parse_args(
        [*words, "--num_sample", "1", "--num_frames", "1", "--data_path", str(root), "--data_root", str(root)]
    )
    flags = ("--output_dir", str(output_dir), "--epochs", "2", "--warmup_epochs", "0", "--lr", "0.5")
    args = make_args(*flags, **vars(data_args))
    context, args = start_run(args)
    data = DataSettings.from_flags(data_args)
    loaders = [build_loader(build_dataset(mode, data), mode, data) for mode in ("train", "validation")]
    model = TinyModel()
    state = create_training_state(
        classify(model, args), args, context, steps_per_epoch=updates_per_epoch(loaders[0], 1)
    )
    resume_training(state, args, context)
    if stop_at is not None:
        model.register_forward_hook(lambda *_: signal_all() if state.step == stop_at and model.training else None)
    fit(state, *loaders, args, context)
    return state


@pytest.fixture(scope="module")
def straight_on_images(images, tmp_path_factory):
    return train_on_images(images, tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize("stop_at", [1, 6])
def test_workers_outlive_the_signal_and_samples_are_the_same(images, straight_on_images, tmp_path, stop_at):
    """The resumed run starts new workers, which must not draw from a generator used by training."""
    with pytest.raises(SystemExit) as stop:
        train_on_images(images, tmp_path / "parts", stop_at=stop_at)
    assert stop.value.code == 75
    assert read_checkpoint(tmp_path / "parts" / "checkpoint-latest.pth")["step"] == stop_at + 1
    assert_equal_states(straight_on_images, train_on_images(images, tmp_path / "parts"))


def test_a_worker_obeys_its_parent_alone():
    """Otherwise, the end of every run would wait for its workers forever."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=_work, args=(ready,))
    worker.start()
    assert ready.wait(120)
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(120)
    assert worker.exitcode == 0


def _work(ready):
    outlive_stop_signals()
    ready.set()
    time.sleep(600)


def test_the_state_of_another_optimizer_is_refused(tmp_path):
    train(tmp_path, "--opt", "sgd", until=1)
    with pytest.raises(ValueError, match="has the state of --opt sgd, not of --opt adamw; resume with --opt sgd, or"):
        train(tmp_path, "--opt", "adamw")


@pytest.mark.parametrize(("flags", "refused"), [("--lr 0.1", "--lr 0.05 -> 0.1"), ("--epochs 1", "--epochs 2 -> 1")])
def test_a_finished_run_is_not_tested_under_other_flags(tmp_path, flags, refused):
    trained = train(tmp_path, epochs=2)
    with pytest.raises(ValueError, match=f"the run is finished, so nothing would be trained with {refused}; begin"):
        train(tmp_path, *flags.split(), epochs=2)
    assert_equal_states(train(tmp_path, "--dist_timeout", "99", epochs=2), trained)


_INTERRUPTED = """
import sys
sys.path[:0] = ["tests", "."]
from engine_standins import train
from engines.preemption import interruption_told

with interruption_told():
    train(sys.argv[1], epochs=1)
    raise KeyboardInterrupt
"""


@pytest.mark.processes
def test_an_interrupted_run_dies_by_the_signal_with_a_word_on_resuming(tmp_path):
    command = [sys.executable, "-c", _INTERRUPTED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == -signal.SIGINT and "Traceback" not in done.stderr
    assert "resumes from the last checkpoint" in done.stdout + done.stderr
