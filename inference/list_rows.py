"""The lines of a list of videos. PyTorch is not imported, so a list is checked before a model is loaded."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets.annotations import VIDEO_SUFFIXES, ListFileError, is_image_path, read_list
from datasets.labels import TASKS
from inference.defaults import LIST_SUFFIXES


class ListRow(NamedTuple):
    """A line of a list: its video, its 1-based number, its label (None if the list has paths only)."""

    path: str
    line: int
    label: Any = None
    is_segment: bool = False


def rows_of_list(given: Sequence[str], data_root: str = "") -> list[ListRow]:
    """Return the rows of a list if it is all that is given, else none: line numbers of several would be ambiguous.

    Raises:
        FileNotFoundError, ListFileError: See `read_rows`.
        ValueError: A line is a segment of a video; a row would belong to the whole video.
    """
    lists = [name for name in given if name.lower().endswith(LIST_SUFFIXES) and not os.path.isdir(name)]
    if len(given) != 1 or not lists:
        return []
    rows = read_rows(Path(lists[0]), data_root)
    if part := next((row for row in rows if row.is_segment), None):
        raise ValueError(f"{lists[0]}, line {part.line} is a segment of {part.path}, but whole videos are read here")
    return rows


def read_rows(file: Path, data_root: str = "") -> list[ListRow]:
    """Read a list of paths, or a training list.

    Raises:
        FileNotFoundError: The list does not exist.
        ListFileError: It has invalid lines.
    """
    if not file.is_file():
        raise FileNotFoundError(f"list file {file} does not exist")
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    rows = [ListRow(os.path.join(data_root, line), number) for number, line in enumerate(lines, start=1) if line]
    if rows and all(row.path.lower().endswith(VIDEO_SUFFIXES) or is_image_path(row.path) for row in rows):
        return rows
    faults = []
    for task in TASKS:
        try:
            records = read_list(file, data_root=data_root, task=task)[0]
        except ListFileError as error:
            faults.append(error)
            continue
        return [ListRow(record.path, record.line, record.target, record.segment is not None) for record in records]
    raise faults[0]
