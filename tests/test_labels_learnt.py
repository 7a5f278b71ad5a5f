"""Several labels and numbers are learnt by the engine's training loop, and not where the labels are exchanged."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_standins import MemoryVideos, TinyModel, make_args, test_loader, training_loader

from engines.distributed import Context
from engines.evaluate import evaluate
from engines.objectives.multilabel import Multilabel
from engines.objectives.regression import Regression
from engines.runner import fit, start_run
from engines.state import create_training_state
from engines.train import updates_per_epoch
from reports.comparison import CompareError, read_results


class Colours(MemoryVideos):
    """Clips whose targets are told by the brightness of their three colours; `exchanged`: those of other clips."""

    def __init__(self, count, seed, target, exchanged=False):
        rng = np.random.default_rng(seed)
        brightness = rng.random((count, 3))
        targets = [target(row) for row in brightness]
        if exchanged:
            targets = [targets[other] for other in rng.permutation(count)]
        self.records = [SimpleNamespace(path=f"{i}.mp4", target=one, line=i + 1) for i, one in enumerate(targets)]
        noise = 0.1 * torch.randn((count, 3, 2, 8, 8), generator=torch.Generator().manual_seed(seed))
        self.clips = noise + torch.tensor(2 * brightness, dtype=torch.float32).view(count, 3, 1, 1, 1)
        self.noise, self.broken = 0.0, set()

    def collate(self, items):
        return {
            "clips": torch.stack([clip for _, clip in items]),
            "targets": [self.records[index].target for index, _ in items],
            "indices": torch.tensor([index for index, _ in items]),
            "unreadable": [],
        }


def bright_colours(row):
    return tuple(np.flatnonzero(row > 0.6).tolist())


def contrast(row):
    return (float(1e4 * (row[0] - row[2])),)


def learnt(tmp_path, create, target, exchanged):
    """Train on clips, and return the figures of others after the validation has settled the objective."""
    torch.manual_seed(0)
    dataset = Colours(96, 0, target, exchanged)
    objective = create([record.target for record in dataset.records])
    flags = ("--epochs", "12", "--warmup_epochs", "1", "--lr", "0.5")
    args = make_args("--output_dir", str(tmp_path), *flags, batch_size=8)
    context, args = start_run(args)
    loader = training_loader(dataset, 8)
    state = create_training_state(objective, args, context, steps_per_epoch=updates_per_epoch(loader, 1))
    fit(state, loader, test_loader(Colours(40, 1, target)), args, context)
    return evaluate(objective, test_loader(Colours(60, 2, target)), Context()).figures


@pytest.mark.slow
@pytest.mark.parametrize("exchanged", [False, True])
def test_several_labels(tmp_path, exchanged):
    figures = learnt(tmp_path, lambda _: Multilabel(TinyModel(dropout=0), 3), bright_colours, exchanged)
    prior = 0.4
    if exchanged:
        assert figures["mean_ap"] < prior + 0.25
    else:
        assert figures["mean_ap"] > 0.9 and figures["micro_f1"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("exchanged", [False, True])
def test_numbers(tmp_path, exchanged):
    def create(targets):
        return Regression(TinyModel(classes=1, dropout=0), 1, targets=targets)

    figures = learnt(tmp_path, create, contrast, exchanged)
    assert figures["r2"] < 0.2 if exchanged else figures["r2"] > 0.8


def test_only_classifications_are_compared(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"task": "multilabel", "predictions": [], "list": {}}))
    with pytest.raises(CompareError, match="is of --task multilabel; only runs with one class a video"):
        read_results(tmp_path / "results.json")
