"""results.json: what was tested, how, and how well; scores.npz: the probabilities behind it."""

import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from engines.evaluate import Evaluation
from engines.files import atomic_write
from reports.statistics import calibration, most_confused, per_class, worst_mistakes

RESULTS = "results.json"
SCORES = "scores.npz"


def write_results(output_dir: str, result: Evaluation, args, dataset, *, num_classes: int, weights: str) -> Path:
    """Write output_dir/results.json and scores.npz, each whole or not at all, and return the path of the first.

    scores.npz holds `line` and `label` (videos,) and `scores` (videos, classes), float32 probabilities.

    Args:
        output_dir: folder, made where it is not there.
        result: of the test.
        args: model, and test_num_segment x test_num_crop, which make up the views; one view is one of each.
        dataset: that was tested: its `records` (path, label, line) and, where it has one, `list_file`.
        num_classes: size of the confusion matrix, whose row is the true class and whose column the predicted one.
        weights: which weights were tested, in words.
    """
    segments, crops = (1, 1) if result.views == 1 else (args.test_num_segment, args.test_num_crop)
    counts = result.confusion_matrix(num_classes)
    record = {
        "top1": result.acc1,
        "top5": result.acc5,
        "loss": result.loss,
        "videos": result.videos,
        "excluded": result.excluded,
        "views": result.views,
        "segments": segments,
        "crops": crops,
        "model": getattr(args, "model", None),
        "weights": weights,
        "classes": num_classes,
        "label_names": getattr(args, "class_names", None),
        "list": describe_list(dataset, getattr(args, "data_root", "")),
        "calibration": calibration(result.labels, result.predictions, result.scores),
        "per_class": per_class(counts),
        "most_confused": most_confused(counts),
        "worst_mistakes": _worst_mistakes(result, dataset.records),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "numpy": np.__version__,
        },
        "confusion_matrix": counts.tolist(),
        "predictions": _predictions(result, dataset.records),
    }
    folder = Path(output_dir)
    lines = np.array([dataset.records[index].line for index in result.indices])
    with atomic_write(folder / SCORES) as file:
        np.savez(file, line=lines, label=result.labels, scores=result.scores.astype(np.float32))
    with atomic_write(folder / RESULTS, "w") as file:
        file.write(_layout(record) + "\n")
    return folder / RESULTS


def describe_list(dataset, data_root: str) -> dict:
    """File, number of records, and a digest of lines, labels and paths below `data_root`: equal for equal lists."""
    digest = hashlib.sha256()
    for record in dataset.records:
        path = os.path.relpath(record.path, data_root) if data_root else record.path
        digest.update(f"{record.line}\t{record.label}\t{path}\n".encode())
    file = getattr(dataset, "list_file", None)
    return {"file": file, "records": len(dataset.records), "sha256": digest.hexdigest()}


def _predictions(result: Evaluation, records: Sequence) -> list[dict]:
    """Line of the list, label, prediction and its probability, of every video in the order of the list."""
    confidence = result.scores[np.arange(result.videos), result.predictions]
    return [
        {
            "line": records[index].line,
            "label": int(label),
            "prediction": int(prediction),
            "confidence": round(float(probability), 6),
        }
        for index, label, prediction, probability in zip(
            result.indices, result.labels, result.predictions, confidence, strict=True
        )
    ]


def _worst_mistakes(result: Evaluation, records: Sequence) -> list[dict]:
    """The surest of the wrong predictions, with their files and the probability that the true class got."""
    rows = []
    for place in worst_mistakes(result.labels, result.predictions, result.scores):
        record = records[result.indices[place]]
        label, prediction = int(result.labels[place]), int(result.predictions[place])
        rows.append({
            "path": str(record.path),
            "line": record.line,
            "label": label,
            "prediction": prediction,
            "confidence": float(result.scores[place, prediction]),
            "label_probability": float(result.scores[place, label]),
        })  # fmt: skip
    return rows


def _layout(record: dict[str, Any]) -> str:
    """JSON with a line for each entry of `record` and of the lists in it, so that long lists stay readable."""
    entries = []
    for name, value in record.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join("    " + json.dumps(item, allow_nan=False) for item in value) + "\n  ]"
        entries.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}"
