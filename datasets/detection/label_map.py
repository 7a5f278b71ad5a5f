"""Label maps: which class ids there are and what they are called, as AVA's .pbtxt files say."""

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
    """An annotation file that cannot be used; the message names file, lines and remedy."""


@dataclass(frozen=True)
class LabelMap:
    """The classes of a detector: column i of its scores is class `ids[i]`, called `names[i]`.

    Attributes:
        path: of the file.
        ids: in the order of the file; any whole numbers.
        names: in the same order.
        lines: of the file, in the same order; empty where there is no file.
    """

    path: str
    ids: tuple[int, ...]
    names: tuple[str, ...]
    lines: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def columns(self) -> dict[int, int]:
        """Column of each class id."""
        return {class_id: column for column, class_id in enumerate(self.ids)}

    def multi_hot(self, labels: Sequence[Sequence[int]]) -> np.ndarray:
        """Mark the classes of each box.

        Args:
            labels: class ids of n boxes.

        Returns:
            (n, classes) float32, 1 where a box has the class.
        """
        marks = np.zeros((len(labels), len(self)), dtype=np.float32)
        for row, ids in zip(marks, labels, strict=True):
            row[[self.columns[class_id] for class_id in ids]] = 1
        return marks


def read_label_map(path: str | os.PathLike) -> LabelMap:
    """Read a label map: entries with a `name:` followed by an `id:` (or `label_id:`), on one line or several.

    Raises:
        FileNotFoundError: the file is not there.
        AnnotationError: it has no entries, an id without a name, or an id or name twice.
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
                    raise AnnotationError(f"{place}: an id should be a whole number of 0 or more, not {value}")
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
        raise AnnotationError(f"{path} has no classes; it should hold entries `{FORM}`")
    return LabelMap(str(path), tuple(ids), tuple(names), tuple(first_lines[class_id] for class_id in ids))


def read_annotation_text(path: str | os.PathLike, contents: str) -> str:
    """Read an annotation file.

    Args:
        path: of the file.
        contents: what it should hold, for the messages.

    Raises:
        FileNotFoundError: it is not there.
        AnnotationError: it is not UTF-8 text.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is not there; it should hold {contents}")
    try:
        return read_text(path)
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path} is not UTF-8 text ({error}); it should hold {contents}") from error
