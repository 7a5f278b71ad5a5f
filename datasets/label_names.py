"""Names of classes: a text file with one name a line, line 1 for label 0."""

import os
from pathlib import Path


class LabelNamesError(ValueError):
    """A file of names that cannot be used; the message names file, line and remedy."""


def read_label_names(path: str | os.PathLike, num_classes: int = 0) -> list[str]:
    """Read the names of all classes, in the order of their labels.

    Args:
        path: UTF-8 text; empty lines at the end do not count.
        num_classes: how many names there must be; 0: any number.

    Raises:
        FileNotFoundError: the file is not there.
        LabelNamesError: it is not text, a line is empty, two are the same, or there are too few or too many.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"--label_names {path} is not there; it should hold a class name a line")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except UnicodeDecodeError as error:
        raise LabelNamesError(f"{path} is not UTF-8 text ({error}); it should hold a class name a line") from error
    first_line: dict[str, int] = {}
    for line, name in enumerate(names, start=1):
        if not name:
            raise LabelNamesError(f"{path}, line {line}: there is no name for label {line - 1}")
        if name in first_line:
            raise LabelNamesError(f'{path}, line {line}: "{name}" stands in line {first_line[name]} already')
        first_line[name] = line
    if num_classes and len(names) != num_classes:
        raise LabelNamesError(
            f"{path} has {len(names)} names, and there are {num_classes} classes; it should have one line for each "
            "label from 0 on (--nb_classes says how many classes there are)"
        )
    return names
