"""How many classes a list has, and whether its labels can be meant."""

import os
from collections.abc import Sequence
from itertools import islice

from datasets.annotations import ListFileError, Record

PLAUSIBLE_CLASSES = 1000
MOST_LABELS_PER_CLASS = 10
MOST_TOLD = 20


def count_classes(records: Sequence[Record], list_file: str | os.PathLike) -> int:
    """Give the number of classes a list needs: its highest label + 1.

    Raises:
        ListFileError: more than `PLAUSIBLE_CLASSES`, and `MOST_LABELS_PER_CLASS` for each label that occurs: a typing
            error or a column that is no label would become the size of the head.
    """
    labels = {record.target for record in records}
    highest = max(records, key=lambda record: record.target)
    count = highest.target + 1
    if count > max(PLAUSIBLE_CLASSES, MOST_LABELS_PER_CLASS * len(labels)):
        raise ListFileError(
            f"{list_file}, line {highest.line}: label {highest.target} would make {count} classes, and the list has "
            f"clips of {len(labels)}; mend it, or say with --nb_classes {count} that it is meant"
        )
    return count


def describe_empty_classes(records: Sequence[Record], num_classes: int) -> str:
    """Word what to say of classes without a clip, in one sentence; empty where every class has one."""
    labels = {record.target for record in records}
    count = num_classes - len(labels)
    if count <= 0:
        return ""
    empty = list(islice((label for label in range(num_classes) if label not in labels), MOST_TOLD))
    told = ", ".join(map(str, empty)) + (", ..." if count > len(empty) else "")
    hint = "; do its labels count from 1? They should from 0" if empty == [0] else ""
    return f"{count} of {num_classes} classes have no clip: {told}{hint}"
