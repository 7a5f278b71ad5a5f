"""The names of a checkpoint's classes."""

import os
from collections.abc import Sequence

from datasets.label_names import read_label_names


def label_names_of(given: str | os.PathLike | Sequence[str], num_classes: int) -> tuple[str, ...]:
    """A name for each of `num_classes` classes.

    Args:
        given: the names, or a file with one a line in the order of the labels; empty for "class 0", "class 1"...

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: there are more or fewer names than classes, or the file is faulty.
    """
    if not given:
        return tuple(f"class {label}" for label in range(num_classes))
    if isinstance(given, (str, os.PathLike)):
        return tuple(read_label_names(given, num_classes))
    if len(given) != num_classes:
        raise ValueError(f"there are {len(given)} names, and the checkpoint has {num_classes} classes")
    return tuple(given)
