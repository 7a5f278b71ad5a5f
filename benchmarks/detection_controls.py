"""Repeat the test of scripts/demo_detection.sh with controls that must fail, to show what the detector has learned.

    python -m benchmarks.detection_controls OUTPUT_DIR

    whole picture     every box is replaced by the whole picture
    frames shuffled   frames in random order: the mAP of the motions must fall, that of the digits must not
    labels exchanged  each box is evaluated with the labels of another one in its clip
    random scores     chance level

The mAP at IoU 0.5 over all classes, over the motions and over the digits is written to OUTPUT_DIR/controls.json.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.files import write_json
from common.flag_parser import FlagParser
from common.flag_types import seed
from common.terminal import escape_output
from datasets.detection.annotations import Keyframe
from datasets.loader import ClipLoader
from datasets.preparation.digit_scenes import DIGIT_ID
from engines.ava_evaluation import frame_map
from engines.checkpoint import load_weights
from engines.configuration import parse_arguments
from engines.detection_results import detection_rows, truth_rows
from engines.distributed import resolve_device
from engines.objectives.detection import Detection
from models.arguments import ModelSettings
from models.build import build_model
from run_action_detection import TASK, note_classes

CHECKPOINT = "checkpoint-latest.pth"
Batch = dict
Scores = list[np.ndarray]


def whole_picture(batch: Batch) -> Batch:
    """Pool every box from the whole picture."""
    height, width = batch["clips"].shape[-2:]
    whole = torch.tensor([0.0, 0.0, width, height])
    return batch | {"targets": [one | {"boxes": whole.expand_as(one["boxes"])} for one in batch["targets"]]}


def shuffled_frames(batch: Batch, generator: torch.Generator) -> Batch:
    """Shuffle the frames of each clip (N, C, T, H, W) separately."""
    clips: Tensor = batch["clips"]
    orders = [torch.randperm(clips.shape[2], generator=generator) for _ in clips]
    return batch | {"clips": torch.stack([clip[:, order] for clip, order in zip(clips, orders, strict=True)])}


def exchanged_labels(records: Sequence[Keyframe]) -> list[Keyframe]:
    """Give each annotated box the labels of the next one in its clip; a box that is alone keeps its own."""
    exchanged = []
    for record in records:
        labels = record.target["labels"]
        exchanged.append(replace(record, target=record.target | {"labels": labels[1:] + labels[:1]}))
    return exchanged


def mean_precisions(records: Sequence[Keyframe], scores: Scores, objective: Detection) -> dict[str, float]:
    """Return the mean average precision over all classes, the motions and the digits, 0 to 1."""
    ids = objective.label_map.ids
    _, ap = frame_map(truth_rows(records), detection_rows(records, scores, ids), ids, excluded=objective.excluded)
    known = {class_id: value for class_id, value in ap.items() if value is not None}
    groups = {
        "all": known,
        "motions": [i for i in known if i < DIGIT_ID],
        "digits": [i for i in known if i >= DIGIT_ID],
    }
    return {name: float(np.mean([known[class_id] for class_id in of_group])) for name, of_group in groups.items()}


def score(objective: Detection, loader: ClipLoader, device: torch.device, change: Callable[[Batch], Batch]) -> Scores:
    """Return the scores (boxes, classes) of every record of the test, with changed batches."""
    scores = {}
    with torch.no_grad():
        for batch in tqdm(loader, unit="batch"):
            found = objective.outputs(change(batch), device, clips_per_forward=len(batch["clips"]))
            scores |= zip(batch["indices"].tolist(), found, strict=True)
    return [scores[index] for index in range(len(loader.dataset))]


def measure(output: Path, number: int = 0) -> dict[str, dict[str, float]]:
    """Test the detector of a run, unchanged and with all controls.

    Args:
        output: Folder of the run.
        number: Random seed.

    Returns:
        {"detector": {"all": mAP, "motions": mAP, "digits": mAP}, ...}, 0 to 1.

    Raises:
        FileNotFoundError, ValueError: The run or its data cannot be read.
    """
    checkpoint = output / CHECKPOINT
    words = ["--config", str(output / "args.json"), "--eval", "--resume", str(checkpoint), "--output_dir", ""]
    flags = parse_arguments(TASK.get_parser(), words, script=TASK.script)
    note_classes(flags)
    settings, device = TASK.read_settings(flags), resolve_device(flags.device)
    dataset = TASK.build_dataset("test", settings)
    model = build_model(ModelSettings.from_flags(flags), dataset.num_classes)
    objective = TASK.create_objective(model, flags, dataset, None)
    load_weights(objective, checkpoint)
    objective.to(device).eval()

    generator, rng = torch.Generator().manual_seed(number), np.random.default_rng(number)
    loader, records = TASK.build_loader(dataset, "test", settings), dataset.records
    scores = score(objective, loader, device, lambda batch: batch)
    guesses = [(rng.random(one.shape) * record.scores[:, None]).astype(one.dtype)
               for one, record in zip(scores, records, strict=True)]  # fmt: skip
    tests = {
        "detector": (records, scores),
        "whole picture": (records, score(objective, loader, device, whole_picture)),
        "frames shuffled": (records, score(objective, loader, device, partial(shuffled_frames, generator=generator))),
        "labels exchanged": (exchanged_labels(records), scores),
        "random scores": (records, guesses),
    }
    return {name: mean_precisions(*of_test, objective) for name, of_test in tests.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    escape_output()
    parser = FlagParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("output_dir", type=Path, help="output folder of scripts/demo_detection.sh")
    parser.add_argument("--seed", type=seed, default=0, help="seed of shuffled frames and random scores")
    options = parser.parse_args(arguments)
    try:
        found = measure(options.output_dir, options.seed)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    write_json(options.output_dir / "controls.json", found)
    print(f"{'mAP at IoU 0.5, in percent':<28}{'all':>8}{'motions':>10}{'digits':>9}")
    for name, row in found.items():
        print(f"{name:<28}{100 * row['all']:>8.1f}{100 * row['motions']:>10.1f}{100 * row['digits']:>9.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
