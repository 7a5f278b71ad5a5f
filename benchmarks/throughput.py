"""Compare the clips per second of training with what the processor time of a CPU run allows.

    python -m benchmarks.throughput [demo] [tiny] [--workers auto] [--rounds 5]

A run has to read its clips and take its steps; on N cores, with nothing lost, a clip costs the seconds of a bare
training step on all of them, and an Nth of the seconds that one core takes to decode and augment it. Both are measured
alone and in turns with the engine (A B A B), which trains on the same videos from a real loader, guard included:

- demo: nano, 8 x 64 x 64, videos of the demo.
- tiny: Tiny, 16 x 224 x 224, sparse frames of a 10 s video, with the published augmentation.

Medians over the rounds are reported; goal: the engine reaches 0.9 of what is allowed. The machine must be idle.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch

import models.videomambapro  # noqa: F401  registers the models
from benchmarks import data
from benchmarks.step import CLASSES, OneBatch, bare_step, constant_settings, engine_step
from benchmarks.timing import interleaved_medians
from common.flag_parser import FlagParser
from common.flag_types import AUTO, count_or_auto, positive_int
from common.memory import keep_freed_memory
from datasets.arguments import DataSettings
from datasets.build import build_dataset, build_loader
from datasets.loader import ClipLoader
from datasets.preparation.moving_digits import draw_clip, split_digits, write_video
from engines.machine import settle_workers, usable_cores


def digits(folder: Path, count: int) -> list[str]:
    """Write videos as the demo does; return their names."""
    shown, _ = split_digits("train")
    names = [f"{i}.mp4" for i in range(count)]
    for i, name in enumerate(names):
        frames, _ = draw_clip(i % 8, shown, num_frames=10, size=64, rng=np.random.default_rng(i))
        write_video(folder / name, frames)
    return names


def long_video(folder: Path, count: int) -> list[str]:
    """Write one video of 10 s, 272 x 640; return its name for every clip, because decoding does not remember it."""
    return [data.write_video(folder / "v.mp4").name] * count


class Case(NamedTuple):
    """What is trained."""

    model: str
    size: int
    batch: int
    steps: int
    """Optimizer steps per round."""
    write: Callable[[Path, int], list[str]]
    """Writes so many videos into a folder and returns their names."""
    settings: dict[str, Any]
    """Of the data."""


_PLAIN = dict(aa="none", hflip=0.0, color_jitter=0.0, reprob=0.0, scale=(1.0, 1.0), ratio=(1.0, 1.0))
CASES = {
    "demo": Case(
        "videomambapro_nano", 64, 16, 20, digits, dict(num_frames=8, sampling="dense", sampling_rate=1, **_PLAIN)
    ),
    "tiny": Case("videomambapro_tiny", 224, 4, 4, long_video, dict(num_frames=16, sampling="sparse")),
}


def measure(case: Case, folder: Path, workers: int, rounds: int) -> dict[str, float]:
    """Measure the median milliseconds per clip of reading, of a bare step and of the engine, and their relation."""
    names = case.write(folder, case.batch * case.steps)
    (folder / "train.csv").write_text("".join(f"{name} 0\n" for name in names))
    settings = DataSettings(
        **{"data_path": str(folder), "data_root": str(folder), "nb_classes": CLASSES, "input_size": case.size},
        **{"batch_size": case.batch, "num_sample": 1, "num_workers": workers, **case.settings},
    )
    loader = build_loader(build_dataset("train", settings), "train", settings)
    alone = DataSettings(**{**vars(settings), "num_workers": 0, "read_timeout": 0})
    reader = build_loader(build_dataset("train", alone), "train", alone)
    shape = dict(img_size=case.size, num_frames=settings.num_frames, drop_path_rate=0.0)
    torch.manual_seed(0)
    model = timm.create_model(case.model, num_classes=CLASSES, **shape)
    batch = next(iter(reader))
    run = constant_settings(case.batch)
    step = bare_step(model, OneBatch(batch["clips"], batch["targets"]), run)
    candidates = {
        "reading": lambda: read(reader),
        "step": lambda: [step() for _ in range(case.steps)],
        "engine": engine_step(model, loader, run),
    }
    for call in candidates.values():
        call()  # starts workers and allocates
    clips = case.batch * case.steps
    medians = {name: 1000 * each / clips for name, each in interleaved_medians(candidates, rounds).items()}
    allowed = medians["step"] + medians["reading"] / usable_cores()
    return medians | {"allowed": allowed, "share": allowed / medians["engine"]}


def read(loader: ClipLoader) -> None:
    """Read all batches with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in loader:
        pass
    torch.set_num_threads(threads)


def main() -> None:
    """Print the figures of the requested cases."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="demo, tiny (default: both)")
    parser.add_argument("--workers", type=count_or_auto, default=AUTO, help="dataloader workers (%(default)s)")
    parser.add_argument("--rounds", type=positive_int, default=5)
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(CASES)}")
    logging.disable(logging.WARNING)  # most classes have no clip
    keep_freed_memory()
    flags = {"num_workers": options.workers, "device": "cpu"}
    settle_workers(flags)
    for name in options.cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(CASES[name], Path(folder), flags["num_workers"], options.rounds)
        print(
            f"{name}: reading {found['reading']:.2f} ms a clip on one core, step {found['step']:.2f} ms on "
            f"{torch.get_num_threads()} thread(s): {1000 / found['allowed']:.1f} clips/s allowed; engine with "
            f"{flags['num_workers']} worker(s) {1000 / found['engine']:.1f} clips/s: {found['share']:.2f}"
        )


if __name__ == "__main__":
    main()
