"""Train a model of benchmarks/study_models.py for a given time, test it and write results.json.

    python -m benchmarks.train_peer --peer "r3d_18, widths / 8" --seconds 300 --data_path LISTS --data_root VIDEOS \
        --output_dir DIR

All models share one training loop: AdamW, cosine schedule over the elapsed time, cross entropy with label smoothing.
On a CPU, time is the processor time of all threads of this process, which other programs do not affect; on a GPU, it
is wall time.
"""

import argparse
import math
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.study_models import PEERS, build_peer, parameters
from common.files import write_json
from common.flag_parser import FlagParser
from common.flag_types import non_negative, positive, seed
from datasets.arguments import DataSettings, add_data_arguments
from datasets.build import build_dataset, build_loader
from engines.objectives.classification import Classification
from engines.results import describe_list

WARMUP = 0.1  # fraction of the time
SMOOTHING = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = parse_arguments(arguments)
    torch.manual_seed(options.seed)
    device = torch.device(options.device)
    data = DataSettings.from_flags(options)
    train_set, test_set = build_dataset("train", data), build_dataset("test", data)
    model = build_peer(options.peer, train_set.num_classes, data.num_frames, data.input_size).to(device)
    clips, seconds = train(model, build_loader(train_set, "train", data), options, device)
    objective = Classification(model, train_set.num_classes).to(device).eval()
    predictions = test(objective, build_loader(test_set, "test", data), device)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident_bytes()
    results = {
        "top1": 100 * float(np.mean([row["prediction"] == row["label"] for row in predictions])),
        "videos": len(predictions),
        "classes": train_set.num_classes,
        "predictions": predictions,
        "list": describe_list(test_set, data.data_root),
        "rate": options.lr,
        "parameters": parameters(model),
        "clips_per_second": clips / seconds,
        "training_seconds": seconds,
        "clips": clips,
        "memory_gib": peak / 2**30,
    }
    write_json(options.output_dir / "results.json", results)
    print(f"{options.peer}: {results['top1']:.1f} % of {len(predictions)} videos, {clips} clips in {seconds:.0f} s")
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", choices=PEERS, required=True, help="model to train")
    parser.add_argument("--seconds", type=positive, default=300, help="training time (default: 300)")
    parser.add_argument("--lr", type=positive, default=1e-3, help="peak learning rate (default: 0.001)")
    parser.add_argument("--weight_decay", type=non_negative, default=0.05, help="weight decay (default: 0.05)")
    parser.add_argument("--seed", type=seed, default=0, help="random seed (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for results.json")
    add_data_arguments(parser)
    parser.set_defaults(
        data_set="JHMDB", num_frames=8, input_size=96, short_side_size=96, test_num_segment=2, batch_size=16,
        num_sample=1, num_workers=1, aa="none", reprob=0, scale=[0.4, 1.0],
    )  # fmt: skip
    return parser.parse_args(arguments)


def train(model: nn.Module, loader, options: argparse.Namespace, device: torch.device) -> tuple[int, float]:
    """Train for the given time; return the numbers of clips and seconds."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=options.weight_decay)
    clock = time.monotonic if device.type == "cuda" else time.process_time
    model.train()
    clips, epoch, start = 0, 0, clock()
    while True:
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            used = (clock() - start) / options.seconds
            if used >= 1:
                return clips, clock() - start
            for group in optimizer.param_groups:
                group["lr"] = options.lr * min(used / WARMUP, (1 + math.cos(math.pi * used)) / 2)
            loss = F.cross_entropy(
                model(batch["clips"].to(device)), batch["targets"].to(device), label_smoothing=SMOOTHING
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            clips += len(batch["clips"])
        epoch += 1


@torch.no_grad()
def test(objective: Classification, loader, device: torch.device) -> list[dict[str, int]]:
    """Predict every video from all its views; return rows of line, label and prediction."""
    rows = []
    for batch in loader:
        scores = objective.outputs(batch, device, clips_per_forward=16)
        for index, label, prediction in zip(
            batch["indices"].tolist(), batch["targets"], scores.argmax(1), strict=True
        ):
            line = loader.dataset.records[index].line
            rows.append({"line": line, "label": int(label), "prediction": int(prediction)})
    return rows


def _resident_bytes() -> int:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    raise SystemExit(main())
