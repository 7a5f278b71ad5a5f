"""Number of classes or targets of a list, and checks that its labels are plausible."""

import os
from collections.abc import Sequence
from itertools import islice

from datasets.annotations import ListFileError, Record
from datasets.labels import LabelTask, classes_of
from datasets.records import RecordTable, targets_of

PLAUSIBLE_CLASSES = 1000
MOST_LABELS_PER_CLASS = 10
MAX_LISTED = 20


def count_outputs(records: Sequence[Record], list_file: str | os.PathLike, task: LabelTask = "classification") -> int:
    """Return the number of classes of a list, its highest label + 1, or of a regression's targets.

    Raises:
        ListFileError: The number of classes is above `PLAUSIBLE_CLASSES` and over `MOST_LABELS_PER_CLASS` times the
            number of distinct labels, so a typing error or a column that is not a label would set the size of the
            head; no clip has a label; or two lines have different numbers of targets.
    """
    if task == "regression":
        return _count_targets(records, list_file)
    labels = _labels(records)
    if not labels:
        raise ListFileError(f"{list_file}: no clip has a label, so there is nothing to learn")
    label = max(labels)
    count = label + 1
    if count > max(PLAUSIBLE_CLASSES, MOST_LABELS_PER_CLASS * len(labels)):
        line = next(record.line for record in records if label in classes_of(record.target))
        raise ListFileError(
            f"{list_file}, line {line}: label {label} implies {count} classes, but the list has "
            f"clips of only {len(labels)}; correct it, or confirm it with --nb_classes {count}"
        )
    return count


def describe_empty_classes(records: Sequence[Record], num_classes: int) -> str:
    """Describe the classes that have no clip in one sentence; empty if there are none."""
    labels = _labels(records)
    count = num_classes - len(labels)
    if count <= 0:
        return ""
    empty = list(islice((label for label in range(num_classes) if label not in labels), MAX_LISTED))
    listed = ", ".join(map(str, empty)) + (", ..." if count > len(empty) else "")
    hint = "; do the labels start at 1? They should start at 0" if empty == [0] else ""
    return f"{count} of {num_classes} classes have no clip: {listed}{hint}"


def describe_labels(records: Sequence[Record], list_file: str | os.PathLike, task: LabelTask) -> list[str]:
    """Describe the labels of a list: classes and clips without any, or the range of each target.

    Raises:
        ListFileError: Two lines have different numbers of targets.
    """
    if task == "regression":
        _count_targets(records, list_file)
        columns = list(zip(*(record.target for record in records), strict=True))
        return [
            f"target {place}: {min(column):g} to {max(column):g}, mean {sum(column) / len(column):g}"
            for place, column in enumerate(columns)
        ]
    unlabelled = sum(not classes_of(target) for target in targets_of(records))
    lines = [f"{unlabelled} of {len(records)} clips have no label"] if unlabelled else []
    empty = describe_empty_classes(records, max(_labels(records), default=-1) + 1)
    return [*lines, empty] if empty else lines


def _labels(records: Sequence[Record]) -> set[int]:
    if isinstance(records, RecordTable):
        return records.classes()
    return {label for target in set(targets_of(records)) for label in classes_of(target)}


def _count_targets(records: Sequence[Record], list_file: str | os.PathLike) -> int:
    lengths = records.target_lengths() if isinstance(records, RecordTable) else map(len, targets_of(records))
    first = next(lengths)
    for place, length in enumerate(lengths, start=1):
        if length != first:
            raise ListFileError(
                f"{list_file}, line {records[place].line}: the label has {length} numbers, but that of line "
                f"{records[0].line} has {first}; every clip needs all targets"
            )
    return first
