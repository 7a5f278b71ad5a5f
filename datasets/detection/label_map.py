"""Label maps: ids and names of the classes, in the format of AVA's .pbtxt files."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from datasets.annotations import ListFileError
from datasets.list_lines import read_text

FORM = 'item { name: "run" id: 1 }'
_ENTRY = re.compile(r"""(\w+)\s*:\s*("[^"]*"|'[^']*'|[^\s{}]+)""")
_ID_NAMES = ("id", "label_id")


class AnnotationError(ListFileError):
    """An annotation file that cannot be used; the message names the file, the lines and the remedy."""


@dataclass(frozen=True)
class LabelMap:
    """Classes of a detector: column i of its scores belongs to the class `ids[i]` with the name `names[i]`.

    Attributes:
        path: Path of the file.
        ids: Class ids in the order of the file; any non-negative integers.
        names: Class names in the same order.
        lines: Line of each class in the file; empty if there is no file.
    """

    path: str
    ids: tuple[int, ...]
    names: tuple[str, ...]
    lines: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def columns(self) -> dict[int, int]:
        """Map each class id to its column."""
        return {class_id: column for column, class_id in enumerate(self.ids)}

    def multi_hot(self, labels: Sequence[Sequence[int]]) -> np.ndarray:
        """Encode the classes of n boxes.

        Args:
            labels: Class ids of each box.

        Returns:
            (n, classes) float32, 1 for the classes of a box and 0 for all others.
        """
        marks = np.zeros((len(labels), len(self)), dtype=np.float32)
        for row, ids in zip(marks, labels, strict=True):
            row[[self.columns[class_id] for class_id in ids]] = 1
        return marks


def read_label_map(path: str | os.PathLike) -> LabelMap:
    """Read a label map: entries with a `name:` followed by an `id:` (or `label_id:`), on one or several lines.

    Raises:
        FileNotFoundError: The file does not exist.
        AnnotationError: There are no entries, an id has no name, or an id or a name occurs twice.
    """
    lines = read_annotation_text(path, f"entries `{FORM}`").splitlines()
    ids: list[int] = []
    names: list[str] = []
    first_lines: dict[int | str, int] = {}
    name = ""
    for number, line in enumerate(lines, start=1):
        place = f"{path}, line {number}"
        for key, value in _ENTRY.findall(line.partition("#")[0] if '"' not in line else line):
            value = value.strip("\"'")
            if key == "name":
                name = value
            elif key in _ID_NAMES:
                if not re.fullmatch(r"\d{1,9}", value):
                    raise AnnotationError(f"{place}: an id must be a non-negative integer, not {value}")
                if not name:
                    raise AnnotationError(f"{place}: id {value} has no name before it; write `{FORM}`")
                for entry in (int(value), name):
                    if (first := first_lines.get(entry)) is not None:
                        raise AnnotationError(f'{place}: "{entry}" is in line {first} already; remove one')
                    first_lines[entry] = number
                ids.append(int(value))
                names.append(name)
                name = ""
    if not ids:
        raise AnnotationError(f"{path} has no classes; it should contain entries `{FORM}`")
    return LabelMap(str(path), tuple(ids), tuple(names), tuple(first_lines[class_id] for class_id in ids))


def read_annotation_text(path: str | os.PathLike, contents: str) -> str:
    """Read an annotation file.

    Args:
        path: Path of the file.
        contents: Expected contents, for error messages.

    Raises:
        FileNotFoundError: The file does not exist.
        AnnotationError: The file is not UTF-8 text.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; it should contain {contents}")
    try:
        return read_text(path)
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not UTF-8 text ({error}); it should contain {contents}") from error
