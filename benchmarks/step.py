"""Compare a training step of the engine with a bare forward pass, backward pass and optimizer step.

    python -m benchmarks.step [--model videomambapro_tiny --frames 8 --size 224 --batch 1] [--threads 2] [--rounds 5]

Both train copies of the same model on one clip in memory, in turns (A B A B) in one process; medians are reported.
The engine's step includes everything a run's step has (gradient norm, checks for non-finite numbers, schedule, sums)
except loading, mixup and logging. If the two losses differ in a turn, no speed is reported.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import nn

import models.videomambapro  # noqa: F401  registers the models
from common.flag_parser import FlagParser
from datasets.loader import ClipLoader
from engines.arguments import add_engine_arguments
from engines.distributed import Context
from engines.logs import RunLog
from engines.objectives.classification import Classification
from engines.optim import create_optimizer
from engines.settings import RunSettings
from engines.state import create_training_state
from engines.train import train_one_epoch

CLASSES = 400


class OneBatch:
    """A loader that yields one batch in memory per epoch."""

    def __init__(self, clips: torch.Tensor, labels: torch.Tensor):
        self.dataset = self
        self.records = []
        self.batch = {"clips": clips, "targets": labels, "indices": labels, "unreadable": []}

    def __iter__(self):
        return iter([self.batch])

    def __len__(self) -> int:
        return 1


def engine_step(model: nn.Module, loader: OneBatch | ClipLoader, settings: RunSettings) -> Callable[[], float]:
    """Return a function that trains a copy of `model` for one epoch of `loader` and returns the mean loss."""
    objective = Classification(copy.deepcopy(model), CLASSES)
    state = create_training_state(objective, settings, Context(), steps_per_epoch=len(loader))

    def step() -> float:
        sums = train_one_epoch(state, loader, settings, Context(), RunLog())
        state.finish_epoch()
        return sums.scalars["loss"]

    return step


def bare_step(model: nn.Module, loader: OneBatch, settings: RunSettings) -> Callable[[], float]:
    """Return a function that does the same in as few lines as possible."""
    model = copy.deepcopy(model).train()
    optimizer = create_optimizer(model, settings, settings.lr)
    clips, labels = loader.batch["clips"], loader.batch["targets"]

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(clips), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def constant_settings(batch: int) -> RunSettings:
    """Return settings with a constant learning rate, so that both loops take the same steps."""
    parser = FlagParser()
    add_engine_arguments(parser)
    constant = ["--lr", "1e-4", "--min_lr", "1e-4", "--lr_base", str(batch), "--warmup_epochs", "0"]
    constant += ["--layer_decay", "1"]  # applied by the schedule, which the bare loop does not have
    args = parser.parse_args(["--device", "cpu", "--no_bf16", *constant])
    args.batch_size, args.num_sample = batch, 1
    return RunSettings.of(args)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Measure the median seconds per step, by name."""
    settings = constant_settings(options.batch)
    torch.manual_seed(0)
    shape = dict(img_size=options.size, num_frames=options.frames, drop_path_rate=0.0)
    model = timm.create_model(options.model, num_classes=CLASSES, **shape)
    clips = torch.randn(options.batch, 3, options.frames, options.size, options.size)
    loader = OneBatch(clips, torch.zeros(options.batch, dtype=torch.int64))
    steps = {"bare": bare_step(model, loader, settings), "engine": engine_step(model, loader, settings)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(1 + options.rounds):
        losses = {}
        for name, step in steps.items():
            start = time.perf_counter()
            losses[name] = step()
            seconds[name].append(time.perf_counter() - start)
        if abs(losses["engine"] - losses["bare"]) > 1e-3 * losses["bare"]:
            raise SystemExit(f"turn {turn}: the losses differ, no speed is reported: {losses}")
    # The first turn allocates.
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    """Print the two medians and their ratio."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="videomambapro_tiny")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    medians = measure(options)
    print(
        f"{options.model}, {options.batch} clip(s) of {options.frames} x {options.size} x {options.size}, "
        f"{options.threads} thread(s), {options.rounds} turns each:\n"
        f"bare {medians['bare']:.3f} s, engine {medians['engine']:.3f} s per step, "
        f"overhead {100 * (medians['engine'] / medians['bare'] - 1):+.1f} %"
    )


if __name__ == "__main__":
    main()
