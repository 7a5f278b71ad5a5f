"""The names of a checkpoint's classes."""

import os
from collections.abc import Sequence

from datasets.label_names import read_label_names


def label_names_of(given: str | os.PathLike | Sequence[str], num_classes: int, noun: str = "class") -> tuple[str, ...]:
    """Return a name for each of `num_classes` classes or targets.

    Args:
        given: the names, or a file with one name per line in the order of the labels; empty for "class 0", ...
        num_classes: expected number of names.
        noun: first word of names that are not given.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the number of names differs from the number of classes, or the file is invalid.
    """
    if not given:
        return tuple(f"{noun} {label}" for label in range(num_classes))
    if isinstance(given, (str, os.PathLike)):
        return tuple(read_label_names(given, num_classes))
    if len(given) != num_classes:
        raise ValueError(f"there are {len(given)} names, but the checkpoint has {num_classes} classes")
    return tuple(given)
