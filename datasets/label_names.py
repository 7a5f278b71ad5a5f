"""Class names: a text file with one name per line, starting with label 0."""

import os
from collections.abc import Sequence
from pathlib import Path

from common.files import atomic_write


class LabelNamesError(ValueError):
    """A file of class names is invalid; the message names the file, the line and the remedy."""


LABELS = "labels.txt"
"""File of the class names beside the lists, as `tools.make_lists` writes it."""


def copy_label_names(lists: Sequence[Path], output: Path) -> None:
    """Copy labels.txt, which lies beside lists, to the folder of other lists made from them.

    Raises:
        LabelNamesError: Lists in different folders have different names.
    """
    found = {folder / LABELS for folder in {path.parent for path in lists} if (folder / LABELS).is_file()}
    contents = {path.read_bytes() for path in found}
    if len(contents) > 1:
        raise LabelNamesError(f"{' and '.join(sorted(map(str, found)))} differ; the lists belong to different classes")
    for content in contents:
        with atomic_write(output / LABELS) as file:
            file.write(content)


def read_label_names(path: str | os.PathLike, num_classes: int = 0) -> list[str]:
    """Read the names of all classes, in the order of their labels.

    Args:
        path: UTF-8 text file; empty lines at the end are ignored.
        num_classes: Expected number of names; 0 accepts any number.

    Raises:
        FileNotFoundError: The file does not exist.
        LabelNamesError: The file is not text, has an empty or a duplicate line, or the wrong number of names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"--label_names {path} does not exist; it should have one class name per line")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().split("\n")]
    except UnicodeDecodeError as error:
        raise LabelNamesError(f"{path} is not UTF-8 text ({error}); it should have one class name per line") from error
    first_line: dict[str, int] = {}
    for line, name in enumerate(names, start=1):
        if not name:
            raise LabelNamesError(f"{path}, line {line}: the name for label {line - 1} is missing")
        if name in first_line:
            raise LabelNamesError(f'{path}, line {line}: "{name}" is already the name in line {first_line[name]}')
        first_line[name] = line
    if num_classes and len(names) != num_classes:
        raise LabelNamesError(
            f"{path} has {len(names)} names, but there are {num_classes} classes; it should have one line for each "
            "label, starting with 0 (--nb_classes sets the number of classes)"
        )
    return names
