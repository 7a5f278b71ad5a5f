"""Stored outputs of a teacher, logits or features of any model, for the clips of a training list.

The file is an .npz with one row per video (docs/features.md), as written by `tools.features`, `run_inference.py` and
tests.
"""

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.flag_types import non_negative, positive
from common.settings import option
from datasets.annotations import Record

LOSSES = ("soft", "hard", "feature")
MAX_LISTED = 5
_SUM_TOLERANCE = 0.02  # of probabilities in float16


@dataclass(frozen=True)
class StoredTeacherSettings:
    """The file of a teacher's outputs and the losses of a student that learns from it."""

    teacher_scores: str = option(
        "", "logits, scores or features of any model for the lines of the training list (docs/features.md)",
        metavar="NPZ",
    )  # fmt: skip
    distill_loss: tuple[str, ...] | None = option(
        None,
        "soft: T^2 KL divergence from the teacher's probabilities at temperature T; hard: cross entropy with its most "
        "probable class; feature: 2 - 2 cos of its features and a projection of the student's (default: soft, or "
        "feature for a file without logits)",
        str,
        choices=LOSSES,
        nargs="+",
    )
    distill_temperature: float = option(1.0, "temperature T of the soft loss", positive)
    distill_weight: float = option(
        1.0, "weight of the distillation losses, added to the cross entropy with the labels", non_negative
    )
    label_weight: float = option(
        1.0, "weight of that cross entropy; 0: a student with --teacher_scores learns from its teacher alone",
        non_negative,
    )  # fmt: skip


@dataclass(frozen=True)
class TeacherOutputs:
    """What a teacher says about each record of a list.

    Attributes:
        losses: Of `LOSSES`, those that the student is trained with.
        logits: (records, views, classes) float32, up to a constant per view; None without a soft or hard loss.
        features: (records, views, width) float32; None without a feature loss.
    """

    losses: tuple[str, ...]
    logits: np.ndarray | None
    features: np.ndarray | None


def read_teacher_outputs(
    settings: StoredTeacherSettings,
    records: Sequence[Record],
    num_classes: int,
    *,
    list_file: str,
    data_root: str = "",
) -> TeacherOutputs:
    """Read the rows of a training list from --teacher_scores.

    Args:
        settings: File and losses.
        records: Of the list.
        num_classes: Of the student.
        list_file: The list, for messages.
        data_root: Folder that the list's paths are relative to.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is no such file, lacks a record, belongs to another list, or its numbers cannot be used.
    """
    file = settings.teacher_scores
    arrays = _read_arrays(file)
    rows = _rows_of(arrays, records, file, list_file, data_root)
    kinds = [name for name in ("logits", "scores") if name in arrays]
    losses = settings.distill_loss or (("soft",) if kinds else ("feature",))
    logits = features = None
    if set(losses) - {"feature"}:
        if len(kinds) != 1:
            has = "both logits and scores: keep one" if kinds else f"no logits or scores, only {_names(arrays)}"
            raise ValueError(f"{file} has {has} (--distill_loss {' '.join(losses)})")
        logits = _checked(arrays[kinds[0]], kinds[0], rows, records, file)
        if logits.shape[-1] != num_classes:
            raise ValueError(f"{file}: its {kinds[0]} have {logits.shape[-1]} classes, the lists {num_classes}")
        logits = _as_logits(logits, kinds[0], records, file)
    if "feature" in losses:
        if "features" not in arrays:
            raise ValueError(f"{file} has no features, only {_names(arrays)} (--distill_loss feature)")
        features = _checked(arrays["features"], "features", rows, records, file)
    return TeacherOutputs(tuple(losses), logits, features)


def _names(arrays: dict[str, np.ndarray]) -> str:
    return ", ".join(arrays) or "nothing"


def _read_arrays(file: str) -> dict[str, np.ndarray]:
    """Read all arrays; nothing in the file is executed."""
    if not Path(file).is_file():
        raise FileNotFoundError(f"--teacher_scores {file}: there is no such file")
    if not zipfile.is_zipfile(file):
        raise ValueError(f"--teacher_scores {file} is not an .npz file")
    arrays, name = {}, ""
    try:
        with np.load(file, allow_pickle=False) as content:
            for name in content.files:
                arrays[name] = content[name]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"--teacher_scores {file} is damaged: {name} cannot be read") from error
    except ValueError as error:
        raise ValueError(
            f"--teacher_scores {file}: the rows of {name} have different forms (numpy stores them as objects); every "
            "video needs the same number of views"
        ) from error
    return arrays


def _rows_of(
    arrays: dict[str, np.ndarray], records: Sequence[Record], file: str, list_file: str, data_root: str
) -> np.ndarray:
    """Find the row of each record by its line or else by its path: int64 (records,)."""
    lines = arrays.get("lines", arrays.get("line"))
    if lines is not None:
        keys, wanted = lines.tolist(), [[record.line] for record in records]
    elif "paths" in arrays:
        keys, wanted = arrays["paths"].tolist(), [_paths_of(record, data_root) for record in records]
    else:
        raise ValueError(
            f"{file} has neither lines nor paths, only {_names(arrays)}: they say which video a row is of"
        )
    place: dict[Any, int] = {key: row for row, key in enumerate(keys)}
    if len(place) < len(keys) and lines is not None:
        twice = next(key for row, key in enumerate(keys) if place[key] != row)
        raise ValueError(f"{file} has two rows for line {twice}")
    found = [next((place[key] for key in some if key in place), -1) for some in wanted]
    absent = [record for record, row in zip(records, found, strict=True) if row < 0]
    if absent:
        listed = ", ".join(f"{record.line} ({record.path})" for record in absent[:MAX_LISTED])
        more = f" and {len(absent) - MAX_LISTED} more" if len(absent) > MAX_LISTED else ""
        raise ValueError(
            f"{file} has no row for {len(absent)} of {len(records)} lines of {list_file}: line {listed}{more}; "
            "compute the teacher's outputs for this list"
        )
    _check_same_list(arrays, records, found, file, list_file)
    return np.array(found)


def _paths_of(record: Record, data_root: str) -> list[str]:
    """Return the names of a record's file: as it is opened, and as it is listed."""
    return [record.path, os.path.relpath(record.path, data_root)] if data_root else [record.path]


def _check_same_list(
    arrays: dict[str, np.ndarray], records: Sequence[Record], rows: list[int], file: str, list_file: str
) -> None:
    """Raise a ValueError if the file's labels or paths are those of another list."""
    labels, paths = arrays.get("labels", arrays.get("label")), arrays.get("paths")
    for record, row in zip(records, rows, strict=True):
        if labels is not None and labels[row] != record.target:
            raise ValueError(
                f"{list_file}, line {record.line} has label {record.target}, but {labels[row]} in {file}: its rows "
                "belong to another list"
            )
        if paths is not None and os.path.basename(paths[row]) != os.path.basename(record.path):
            raise ValueError(
                f"{list_file}, line {record.line} is {record.path}, but {paths[row]} in {file}: its rows belong to "
                "another list"
            )


def _checked(array: np.ndarray, name: str, rows: np.ndarray, records: Sequence[Record], file: str) -> np.ndarray:
    """Return the records' rows (records, views, width), float32 and finite."""
    if array.ndim not in (2, 3) or 0 in array.shape or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{file}: {name} should be floating-point numbers (videos, width) or (videos, views, width), not "
            f"{array.dtype} {array.shape}"
        )
    if len(array) <= rows.max():
        raise ValueError(f"{file}: {name} has only {len(array)} rows, fewer than its lines or paths")
    chosen = array[rows].astype(np.float32)
    chosen = chosen[:, None] if chosen.ndim == 2 else chosen
    broken = ~np.isfinite(chosen).all((1, 2))
    if broken.any():
        record = records[int(broken.argmax())]
        raise ValueError(
            f"{file}: the {name} of {int(broken.sum())} videos are not finite, the first of line {record.line} "
            f"({record.path})"
        )
    return chosen


def _as_logits(values: np.ndarray, kind: str, records: Sequence[Record], file: str) -> np.ndarray:
    """Return logits: scores, which are probabilities, become their logarithms."""
    are_shares = (values >= 0).all((1, 2)) & (np.abs(values.sum(-1) - 1) < _SUM_TOLERANCE).all(1)
    if kind == "scores":
        if not are_shares.all():
            record = records[int((~are_shares).argmax())]
            raise ValueError(
                f"{file}: the scores of line {record.line} ({record.path}) are not probabilities; if they are logits, "
                "name the array logits"
            )
        return np.log(np.maximum(values, np.finfo(np.float32).tiny))
    if are_shares.all():
        raise ValueError(f"{file}: its logits are probabilities (their sums are 1); name the array scores")
    return values
