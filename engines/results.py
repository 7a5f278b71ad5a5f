"""results.json, the metrics of a test and how it was run, and scores.npz, the outputs behind them."""

import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from common.files import atomic_write
from datasets.segments import describe_segment
from engines.evaluate import Evaluation
from engines.objectives.base import Objective

RESULTS = "results.json"
SCORES = "scores.npz"


@dataclass(frozen=True)
class AboutTest:
    """How a test was run.

    Attributes:
        model: name of the model, or None.
        weights: description of the weights that were tested.
        segments: temporal clips per video.
        crops: spatial crops per clip.
        data_root: folder that the list's paths are relative to.
    """

    model: str | None
    weights: str
    segments: int = 1
    crops: int = 1
    data_root: str = ""


def write_results(
    output_dir: str,
    evaluation: Evaluation,
    objective: Objective,
    dataset,
    about: AboutTest,
    *,
    controls: Mapping[str, Evaluation] = {},
) -> Path:
    """Write results.json, scores.npz and the objective's files atomically and return the path of results.json.

    scores.npz contains `line` (videos,) and the objective's arrays. results.json is written last.

    Args:
        output_dir: folder, created if necessary.
        evaluation: result of the test.
        objective: provides further results and arrays.
        dataset: the tested data set, with `records` (path, target, line) and optionally `list_file`.
        about: how the test was run.
        controls: results of a classifier on changed frames, by name, stored as `temporal_controls`.
    """
    segments, crops = (1, 1) if evaluation.views == 1 else (about.segments, about.crops)
    record = {
        "objective": type(objective).__name__,
        "figures": evaluation.figures,
        "videos": evaluation.videos,
        "excluded": evaluation.excluded,
        "views": evaluation.views,
        "segments": segments,
        "crops": crops,
        "model": about.model,
        "weights": about.weights,
        "list": describe_list(dataset, about.data_root),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "numpy": np.__version__,
        },
        **objective.results(evaluation),
    }
    if controls:
        record["temporal_controls"] = {name: _of_control(objective, found) for name, found in controls.items()}
    listed = getattr(dataset, "listed", dataset.records)
    _add_segments(record, {record.line: describe_segment(record) for record in listed})
    folder = Path(output_dir)
    lines = np.array([record.line for record in evaluation.records])
    with atomic_write(folder / SCORES) as file:
        arrays: dict[str, Any] = objective.arrays(evaluation)
        np.savez(file, line=lines, **arrays)
    for name, text in objective.files(evaluation).items():
        with atomic_write(folder / name, "w") as file:
            file.writelines(f"{line}\n" for line in text)
    with atomic_write(folder / RESULTS, "w") as file:
        file.write(_layout(record) + "\n")
    return folder / RESULTS


def _of_control(objective: Objective, evaluation: Evaluation) -> dict[str, Any]:
    """Return metrics, statistics per class and predictions of a test on changed frames."""
    results = objective.results(evaluation)
    return {"figures": evaluation.figures} | {name: results[name] for name in ("per_class", "predictions")}


def describe_list(dataset, data_root: str) -> dict:
    """Return a list's file, its number of records, and a digest of lines, targets and paths below `data_root`."""
    digest = hashlib.sha256()
    records = getattr(dataset, "listed", dataset.records)
    for record in records:
        path = os.path.relpath(record.path, data_root) if data_root else record.path
        stretch = "".join(f"\t{value}" for value in describe_segment(record).values())
        digest.update(f"{record.line}\t{record.target}\t{path}{stretch}\n".encode())
    file = getattr(dataset, "list_file", None)
    windows = {} if records is dataset.records else {"windows": len(dataset.records)}
    return {"file": file, "records": len(records), **windows, "sha256": digest.hexdigest()}


def _add_segments(results: dict[str, Any], segments: Mapping[int, dict[str, Any]]) -> None:
    """Add start and end to everything that is said of single lines, where the list has segments of videos."""
    for rows in results.values():
        if isinstance(rows, dict):
            _add_segments(rows, segments)
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and "line" in row:
                row.update(segments.get(row["line"], {}))


def _layout(record: dict[str, Any]) -> str:
    """Format as JSON with one line per entry of `record` and of the lists in it, so that long lists are readable."""
    entries = []
    for name, value in record.items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join("    " + json.dumps(item, allow_nan=False) for item in value) + "\n  ]"
        entries.append(f"  {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(entries) + "\n}"
