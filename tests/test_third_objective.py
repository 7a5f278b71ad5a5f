"""An objective of twenty lines that the engine has never heard of: how far a digit moves, in pixels.

It trains, is killed, goes on, is tested and reported, on one process and on two.
"""

import json
import os
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from data_flags import data_flags
from engine_standins import make_args, run_processes
from forked import run_function
from PIL import Image
from torch import nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from datasets.build import build_dataset, build_loader
from datasets.preparation.moving_digits import digit_layer, draw_background, draw_digit, split_digits
from engines.checkpoint import read_checkpoint, resume_training
from engines.distributed import close_distributed
from engines.objectives.base import Objective, Score
from engines.runner import fit, run_test, start_run
from engines.state import create_training_state
from engines.train import updates_per_epoch
from models.videomambapro import VideoMambaPro
from reports.best_effort import try_to_report
from tools.report import main as report_tool

FRAMES, SIDE, CLIPS = 4, 32, {"train": 32, "val": 5, "test": 5}
EPOCHS, KILLED_AT = 3, 6  # of four updates an epoch
TIMED = ("train_clips_per_second", "train_data_time", "seconds", "processes")


class PathLength(Objective):
    """Regression with a head of its own, in units of the training list's mean and deviation."""

    score = Score("error", higher_is_better=False)

    def __init__(self, model, lengths):
        super().__init__(model)
        self.mean, self.deviation = float(np.mean(lengths)), float(np.std(lengths))
        self.length = nn.Linear(model.embed_dim, 1)

    def forward(self, batch):
        misses = self.predict(batch["clips"]) - batch["targets"]
        return {"loss": (misses / self.deviation).square().mean(), "error": misses.abs().mean()}

    def predict(self, clips):
        return self.mean + self.deviation * self.length(self.model.forward_features(clips)).float()[:, 0]

    def figures(self, outputs, records):
        misses = outputs - np.array([record.target for record in records])
        return {"error": float(np.abs(misses).mean()), "mse": float(np.square(misses).mean())}

    def files(self, evaluation):
        return {"lengths.csv": map("{0.line},{1}".format, evaluation.records, evaluation.outputs)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of frames in which a digit moves straight on, their lists, and lengths.json: folder -> pixels."""
    root, rng, lengths = tmp_path_factory.mktemp("data"), np.random.default_rng(0), {}
    for split, count in CLIPS.items():
        digits = split_digits(split)[0]
        for name in (f"{split}{i}" for i in range(count)):
            (root / name).mkdir()
            lengths[name] = rng.uniform(0, 20)
            middle, angle = np.full(2, SIDE / 2), rng.uniform(0, 2 * np.pi)
            background, digit = draw_background(SIDE, rng), digits[rng.integers(len(digits))]
            for frame, share in enumerate(np.linspace(-0.5, 0.5, FRAMES)):
                x, y = middle + share * lengths[name] * np.array([np.cos(angle), np.sin(angle)])
                picture = draw_digit(background, digit_layer(digit, (x, y, 10), SIDE), np.full(3, 255))
                Image.fromarray(picture).save(root / name / f"img_{frame + 1:05}.png")
        (root / f"{split}.csv").write_text("".join(f"{split}{i} {FRAMES} 0\n" for i in range(count)))
    (root / "lengths.json").write_text(json.dumps(lengths))
    return root


def lists(root, *flags):
    """The data sets of all modes, whose records carry lengths, and their settings."""
    settings = data_flags(
        root, "--sampling", "uniform", "--filename_tmpl", "img_{:05}.png", "--reader", "pyav", *flags
    )
    lengths, sets = json.loads((root / "lengths.json").read_text()), {}
    for mode in ("train", "validation", "test"):
        sets[mode] = build_dataset(mode, settings)
        sets[mode].records = [replace(r, target=lengths[os.path.basename(r.path)]) for r in sets[mode].records]
    return sets, settings


def run(root, output, batch_size, *flags, kill_at=None, report=False):
    """Train as far as it gets and test; the process with `kill_at` dies in that update."""
    sets, data = lists(root, "--batch_size", str(batch_size), "--test_num_segment", "1", "--test_num_crop", "3")
    words = ("--output_dir", str(output), "--warmup_epochs", "0", "--lr", "0.1")
    rest = ("--layer_decay", "1", "--clip_grad", "1", "--model_ema", "--model_ema_decay", "0.5", "--log_interval", "1")
    args = make_args(*words, *rest, "--save_every_steps", "1", *flags, **vars(data) | {"epochs": EPOCHS})
    context, args = start_run(args)
    shards = dict(rank=context.rank, world_size=context.world_size)
    loaders = {mode: build_loader(sets[mode], mode, data, **shards) for mode in sets}
    shape = dict(img_size=SIDE, patch_size=8, num_frames=FRAMES, embed_dim=32, depth=2, num_classes=0)
    model = VideoMambaPro(**shape, drop_path_rate=0.0, dt_init="mamba", backend="portable")
    objective = PathLength(model, [record.target for record in sets["train"].records])
    steps = updates_per_epoch(loaders["train"], 1)
    state = create_training_state(objective, args, context, steps_per_epoch=steps)
    resume_training(state, args, context)
    if kill_at is not None:
        die = lambda *_: os.kill(os.getpid(), signal.SIGKILL) if state.step == kill_at else None  # noqa: E731
        objective.register_forward_hook(die)
    fit(state, loaders["train"], loaders["validation"], args, context)
    run_test(objective, loaders["test"], args, context, state=state)
    if report and context.is_main:
        try_to_report(args.output_dir, sets["test"])


def _until_killed(rank, root, folder, processes):
    run(root, folder / "straight", 8 // processes, report=True)
    run(root, folder / "parts", 8 // processes, kill_at=KILLED_AT if rank == processes - 1 else None)


def _on(rank, root, folder, processes):
    run(root, folder / "parts", 8 // processes)
    if processes > 1:
        run(root, folder / "fsdp", 8 // processes, "--parallel", "fsdp")
    close_distributed()


def start(function, processes, folder, *arguments):
    """Run a function in new processes, a lone one without torchrun's variables. Whether all ended well."""
    if processes == 1:
        return run_function(function, 0, *arguments, folder, processes, folder=folder)[0] == 0
    try:
        run_processes(function, processes, *arguments, folder, processes)
    except (ProcessExitedException, ProcessRaisedException):
        return False
    return True


@pytest.fixture(
    scope="module", params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["one process", "two processes"]
)
def folder(request, data, tmp_path_factory):
    """A folder with "straight", a run that nothing disturbed, and "parts", one that was killed and went on."""
    folder = tmp_path_factory.mktemp("runs")
    assert not start(_until_killed, request.param, folder, data)
    assert read_checkpoint(folder / "parts" / "checkpoint-latest.pth")["step"] == KILLED_AT
    assert start(_on, request.param, folder, data)
    return folder


def log_lines(folder):
    lines = [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMED} for line in lines]


def test_a_killed_run_goes_on_to_the_same_weights_and_log(folder):
    saved, again = (read_checkpoint(folder / name / "checkpoint-latest.pth") for name in ("straight", "parts"))
    for kind in ("model", "model_ema"):
        assert list(saved[kind])[-2:] == ["length.weight", "length.bias"] and "cls_token" in saved[kind]
        assert all(torch.equal(value, again[kind][name]) for name, value in saved[kind].items())
    assert not torch.equal(saved["model"]["length.weight"], saved["model_ema"]["length.weight"])
    for first, second in zip(log_lines(folder / "straight"), log_lines(folder / "parts"), strict=True):
        assert first == pytest.approx(second, rel=1e-12)


def test_it_learns_and_every_number_is_logged_under_its_name(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = log_lines(folder / "straight")
    assert lines[-1]["train_loss"] < 0.7 * lines[0]["train_loss"]
    reached = [min(line["val_error"], line["val_ema_error"]) for line in lines]
    assert [line["best_error"] for line in lines] == np.minimum.accumulate(reached).tolist(), "lower is better"
    assert lines[-1].keys() >= {"train_error", "val_mse", "val_videos"} and "val_acc1" not in lines[-1]
    assert read_checkpoint(folder / "straight" / "checkpoint-best.pth")["best_score"] == min(reached)
    events = EventAccumulator(str(folder / "straight")).Reload()
    assert {"train/error", "train/loss", "epoch/val_error"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("train/error")) == EPOCHS * 4


def test_results_and_report_are_the_objectives(folder, data, capsys):
    results = json.loads((folder / "straight" / "results.json").read_text())
    scores = np.load(folder / "straight" / "scores.npz")
    lengths = json.loads((data / "lengths.json").read_text())
    misses = scores["outputs"] - [lengths[f"test{line - 1}"] for line in scores["line"]]
    assert results["figures"]["error"] == pytest.approx(np.abs(misses).mean())
    assert (results["objective"], results["videos"], results["views"]) == ("PathLength", CLIPS["test"], 3)
    rows = [line.split(",") for line in (folder / "straight" / "lengths.csv").read_text().splitlines()]
    assert [int(line) for line, _ in rows] == scores["line"].tolist()
    np.testing.assert_allclose([float(length) for _, length in rows], scores["outputs"], rtol=1e-6)
    page = (folder / "straight" / "report.html").read_text()
    assert re.search(r"<b>[\d.]+</b>error", page) and "best validation\n    error" in page
    assert "top-1" not in page and "Confusion" not in page
    assert report_tool([str(folder / "straight")]) == 0
    assert "test error" in capsys.readouterr().out


def test_processes_and_shards_do_not_change_the_curve(folder):
    """Two processes, sharded and not, against each other: the same clips in every update."""
    if not (folder / "fsdp").exists():
        pytest.skip("one process has no shards")
    plain, sharded = ([line["train_loss"] for line in log_lines(folder / name)] for name in ("straight", "fsdp"))
    np.testing.assert_allclose(sharded, plain, rtol=1e-3)
    assert json.loads((folder / "fsdp" / "results.json").read_text())["videos"] == CLIPS["test"]
