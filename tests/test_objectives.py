"""What the engine does for any objective: weighting by counts, logging scalars, targets of any form."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_standins import MemoryVideos, TinyModel, classify, make_args, run_processes, training_loader
from torch import nn

import engines.train
from datasets.collate import join_targets
from engines.distributed import Context, close_distributed
from engines.epoch_sums import EpochSums
from engines.logs import RunLog
from engines.objectives.base import Objective, Score, Unregistered
from engines.runner import fit, start_run
from engines.state import create_training_state
from engines.train import train_one_epoch


class Boxes(Objective):
    """Clips have any number of boxes, also none; a box is a number here, and the loss a mean over boxes."""

    def count(self, batch):
        return sum(len(target["boxes"]) for target in batch["targets"])

    def forward(self, batch):
        guesses = self.model(batch["clips"])[:, 0]
        misses = torch.cat([guess - target["boxes"] for guess, target in zip(guesses, batch["targets"], strict=True)])
        loss = misses.square().sum() / max(len(misses), 1)
        return {"loss": loss, "miss": misses.detach().abs().sum() / max(len(misses), 1)}


class ClipsWithBoxes(MemoryVideos):
    """Sixteen clips; every third has no box, the others up to five."""

    def __init__(self):
        super().__init__(16)
        for i, record in enumerate(self.records):
            record.target = {"boxes": torch.arange(i % 3 * (1 + i % 2 * 1.5), dtype=torch.float32) + i}

    def collate(self, items):
        targets = join_targets([self.records[index].target for index, _ in items])
        clips = torch.stack([clip for _, clip in items])
        return {"clips": clips, "targets": targets, "indices": torch.tensor([i for i, _ in items]), "unreadable": []}


def train_boxes(batch_size, update_freq, *flags):
    """One epoch of two updates with eight clips each; weights, the epoch's numbers and the gradients' norms."""
    plain = ("--opt", "sgd", "--lr", "0.5", "--warmup_epochs", "0", "--no_auto_resume")
    args = make_args(*plain, "--update_freq", str(update_freq), *flags, batch_size=batch_size)
    context, args = start_run(args)
    loader = training_loader(ClipsWithBoxes(), batch_size, context.rank, context.world_size)
    state = create_training_state(Boxes(TinyModel(dropout=0)), args, context, steps_per_epoch=2)
    metrics = train_one_epoch(state, loader, args, context, RunLog()).metrics
    numbers = {name: metrics[name] for name in ("loss", "miss", "grad_norm")}
    return {name: value.clone() for name, value in state.model.state_dict().items()}, numbers


def assert_same(found, expected):
    for name, value in expected[0].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert found[1] == pytest.approx(expected[1], rel=1e-4)


@pytest.fixture(scope="module")
def whole():
    return train_boxes(8, 1)


@pytest.mark.parametrize("batch_size", [4, 2, 1])
def test_accumulation_does_not_change_the_gradient_whatever_the_batches_hold(whole, batch_size):
    assert whole[1]["grad_norm"] > 1, "there is something to learn"
    assert_same(train_boxes(batch_size, 8 // batch_size), whole)


def _train_rank(rank, folder):
    torch.save([train_boxes(2, 2), train_boxes(1, 4, "--parallel", "fsdp")[1]], folder / f"{rank}.pt")
    close_distributed()


def test_processes_do_not_change_the_gradient_whatever_their_batches_hold(whole, tmp_path):
    run_processes(_train_rank, 2, tmp_path)
    for rank in range(2):
        ddp, fsdp = torch.load(tmp_path / f"{rank}.pt")
        assert_same(ddp, whole)
        assert fsdp == pytest.approx(whole[1], rel=1e-4)


def test_an_update_without_anything_to_count_changes_nothing():
    args = make_args("--opt", "sgd", "--weight_decay", "0", "--warmup_epochs", "0")
    dataset = ClipsWithBoxes()
    for record in dataset.records:
        record.target = {"boxes": torch.zeros(0)}
    state = create_training_state(Boxes(TinyModel()), args, Context(), steps_per_epoch=4)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    sums = train_one_epoch(state, training_loader(dataset), args, Context(), RunLog())
    assert sums.skipped == 0 and sums.metrics["loss"] == 0
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())


def test_every_scalar_reaches_the_bar(monkeypatch):
    shown = []

    class Bar(list):
        disable = False

        def set_postfix(self, values, refresh):
            shown.append(values)

    monkeypatch.setattr(engines.train, "progress", lambda updates, **_: Bar(updates))
    train_boxes(4, 2)
    assert [list(values) for values in shown] == [["loss", "miss", "lr"]] * 2
    assert float(shown[0]["miss"]) > 0


def test_without_a_score_there_is_no_best_checkpoint(tmp_path):
    args = make_args("--output_dir", str(tmp_path), "--epochs", "2", "--model_ema")
    state = create_training_state(Boxes(TinyModel()), args, Context(), steps_per_epoch=4)
    fit(state, training_loader(ClipsWithBoxes()), None, args, Context())
    last = json.loads((tmp_path / "log.txt").read_text().splitlines()[-1])
    assert last["train_miss"] > 0 and not [name for name in last if name.startswith("best")]
    assert not (tmp_path / "checkpoint-best.pth").exists() and (tmp_path / "checkpoint-latest.pth").exists()


@pytest.mark.parametrize(("higher", "best"), [(True, [5.0, 5.0, 7.0]), (False, [5.0, 3.0, 3.0])])
def test_the_score_has_a_direction(higher, best):
    objective = classify(TinyModel())
    objective.score = Score("anything", higher_is_better=higher)
    state = create_training_state(objective, make_args("--model_ema"), Context(), steps_per_epoch=1)
    assert not state.note_scores(float("nan"), float("nan")) and state.best_score is None
    reached = []
    for model, average in ((5.0, float("nan")), (3.0, 3.0), (7.0, 7.0)):
        improved = state.note_scores(model, average)
        assert improved == (state.best_score not in reached)
        reached.append(state.best_score)
    assert reached == best and state.test_weights == "model_ema", "the average was no worse"
    state.note_scores(1.0, 2.0)
    assert (state.test_weights == "model_ema") == higher


def test_targets_keep_their_kind():
    labels, numbers = join_targets([3, np.int64(0)]), join_targets([1, 2.5])
    assert (labels.dtype, labels.tolist()) == (torch.int64, [3, 0])
    assert (numbers.dtype, numbers.tolist()) == (torch.float32, [1.0, 2.5])
    several = join_targets([np.array([0, 1, 1], np.float32), np.array([1, 0, 0], np.float32)])
    assert several.tolist() == [[0, 1, 1], [1, 0, 0]] and several.dtype == torch.float32
    uneven = [torch.zeros(2, 4), torch.zeros(1, 4)]
    assert join_targets(uneven) is uneven
    assert join_targets([{"boxes": uneven[0]}, None]) == [{"boxes": uneven[0]}, None]
    assert join_targets([]).dtype == torch.int64


def test_a_teacher_is_neither_trained_nor_saved():
    teacher = nn.Linear(2, 2)
    objective = classify(TinyModel())
    objective.teacher = Unregistered(teacher)
    assert not objective.state_dict().keys() - classify(TinyModel()).state_dict().keys()
    assert not teacher.training and not teacher.weight.requires_grad


def test_a_name_that_the_model_has_too_is_refused():
    objective = classify(TinyModel())
    objective.head = nn.Linear(8, 1)
    with pytest.raises(ValueError, match=r"Classification and its model both have a head\.weight"):
        create_training_state(objective, make_args(), Context(), steps_per_epoch=1)


def test_sums_of_older_checkpoints_are_read():
    older = {"updates": 2, "loss": 3.0, "grad_norm": 1.0, "unreadable": {}}
    assert EpochSums.from_saved(older).metrics["loss"] == 1.5
    sums = EpochSums(updates=1, scalars={"loss": 1.0, "miss": 2.0})
    assert EpochSums.from_saved(sums.state_dict()) == sums


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_engine_knows_neither_reports_nor_one_task():
    folder = Path(engines.train.__file__).parent
    for path in folder.rglob("*.py"):
        assert not [name for name in imports(path) if name.partition(".")[0] in ("reports", "inference", "tools")], (
            path
        )
    for path in folder.glob("*.py"):
        assert not [name for name in imports(path) if name.startswith("engines.objectives.") and "base" not in name]
        assert not re.search(r"\.label\b|acc1|criterion\(", path.read_text()), path


class NamedAsTheLoop(Boxes):
    def forward(self, batch):
        return super().forward(batch) | {"grad_norm": torch.tensor(1.0)}


def test_a_scalar_with_the_name_of_one_of_the_loop_is_refused():
    args = make_args()
    state = create_training_state(NamedAsTheLoop(TinyModel()), args, Context(), steps_per_epoch=4)
    with pytest.raises(ValueError, match="the training loop itself logs 'grad_norm'"):
        train_one_epoch(state, training_loader(ClipsWithBoxes()), args, Context(), RunLog())
