"""Number of classes of a list, and checks that its labels are plausible."""

import os
from collections.abc import Sequence
from itertools import islice

from datasets.annotations import ListFileError, Record

PLAUSIBLE_CLASSES = 1000
MOST_LABELS_PER_CLASS = 10
MAX_LISTED = 20


def count_classes(records: Sequence[Record], list_file: str | os.PathLike) -> int:
    """Return the number of classes of a list: its highest label + 1.

    Raises:
        ListFileError: The number is above `PLAUSIBLE_CLASSES` and over `MOST_LABELS_PER_CLASS` times the number of
            distinct labels, so a typing error or a column that is not a label would set the size of the head.
    """
    labels = {record.target for record in records}
    highest = max(records, key=lambda record: record.target)
    count = highest.target + 1
    if count > max(PLAUSIBLE_CLASSES, MOST_LABELS_PER_CLASS * len(labels)):
        raise ListFileError(
            f"{list_file}, line {highest.line}: label {highest.target} implies {count} classes, but the list has "
            f"clips of only {len(labels)}; correct it, or confirm it with --nb_classes {count}"
        )
    return count


def describe_empty_classes(records: Sequence[Record], num_classes: int) -> str:
    """Describe the classes that have no clip in one sentence; empty if there are none."""
    labels = {record.target for record in records}
    count = num_classes - len(labels)
    if count <= 0:
        return ""
    empty = list(islice((label for label in range(num_classes) if label not in labels), MAX_LISTED))
    listed = ", ".join(map(str, empty)) + (", ..." if count > len(empty) else "")
    hint = "; do the labels start at 1? They should start at 0" if empty == [0] else ""
    return f"{count} of {num_classes} classes have no clip: {listed}{hint}"
