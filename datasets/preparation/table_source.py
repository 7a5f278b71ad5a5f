"""Read a table of videos with a column for each class or target, as spreadsheets export it."""

import csv
import io
from pathlib import Path

from datasets.labels import LabelTask, Target, parse_number
from datasets.list_lines import LineError
from datasets.preparation.list_sources import Entry, Source
from datasets.preparation.media_index import SourceError
from datasets.preparation.source_files import text_of

TABLE = "table"
MARKS = {"": False, "0": False, "1": True}


def read_table(path: Path, task: LabelTask) -> Source:
    """Read a table whose first line names the columns: the video, then each class or target.

    Args:
        path: UTF-8 text; the columns are separated by commas, semicolons or tabs.
        task: "multilabel": 1 where the video has the class of a column, else 0 or nothing; "regression": numbers.

    Raises:
        SourceError: The table cannot be read; the message names the line and the column.
    """
    lines = text_of(path).splitlines()
    if not lines:
        raise SourceError(f"{path} is empty")
    separator = max(",;\t", key=lines[0].count)
    header, *rows = csv.reader(io.StringIO("\n".join(lines)), delimiter=separator)
    names = [name.strip() for name in header[1:]]
    if not names or "" in names or len(set(names)) < len(names):
        raise SourceError(
            f"{path}, line 1: it should name the columns once each: the video, then the classes or targets"
        )
    entries = []
    for line, row in enumerate(rows, start=2):
        place = f"{path.name}, line {line}"
        if not any(row):
            continue
        if len(row) != len(header):
            raise SourceError(f"{path}, line {line}: there are {len(row)} columns, but line 1 names {len(header)}")
        values = [value.strip() for value in row[1:]]
        entries.append(Entry((row[0].strip(),), _label(values, names, task, f"{path}, line {line}"), place))
    return Source({"train": entries}, names)


def _label(values: list[str], names: list[str], task: LabelTask, place: str) -> Target:
    if task == "multilabel":
        for name, value in zip(names, values, strict=True):
            if value not in MARKS:
                raise SourceError(
                    f'{place}: {name} is "{value}", which is neither 0 nor 1; numbers: --task regression'
                )
        return tuple(label for label, value in enumerate(values) if MARKS[value])
    numbers = []
    for name, value in zip(names, values, strict=True):
        try:
            numbers.append(parse_number(value))
        except LineError as error:
            raise SourceError(f'{place}: {name} is "{value}", which is no number; decimals have a point') from error
    return tuple(numbers)
