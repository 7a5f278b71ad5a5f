"""Read the plain lines of a list, nearly all of a large one, several times as fast as `annotations.parse_line`.

A plain line has no quotes, no spaces in its path, no sign before a class, and only the columns of its list. The
records equal those of `parse_line`.
"""

import re
from collections.abc import Callable, Sequence
from operator import ge, gt

from datasets.labels import LabelTask, Target
from datasets.list_lines import JOINT, MAX_DIGITS, LineError
from datasets.records import RecordTable

_INTEGER = f"[0-9]{{1,{MAX_DIGITS}}}"
_NUMBER = rf"{_INTEGER}(?:\.{_INTEGER})?"
_GROUPS = ("path", "total_frames", "start", "end", "label")


def plain_line(kind: str, separator: str, task: LabelTask, columns: Sequence[str] = ()) -> re.Pattern:
    """Return a pattern that finds plain lines in text; its groups, `_GROUPS`, are empty for columns that a list lacks.

    Args:
        kind: "video" for lines `path label`, "frames" for `path total_frames label`, "image" for both.
        separator: Between the columns.
        task: What the labels are.
        columns: Names of the columns of a list of segments, which `kind` tells otherwise.
    """
    mark = re.escape(separator)
    forms = {"path": rf'[^\s",;{mark}]+', "total_frames": "[1-9][0-9]{0,8}", "label": _label_pattern(task)}
    forms |= {"start": _NUMBER, "end": _NUMBER, "start_frame": _INTEGER, "end_frame": _INTEGER}
    columns = columns or (("path", "label") if kind == "video" else ("path", "total_frames", "label"))
    cells = {name.removesuffix("_frame"): forms.get(name, rf'[^"\n{mark}]*') for name in columns}
    parts = [f"(?P<{name}>{cell}){mark}" if name in _GROUPS else cell + mark for name, cell in cells.items()]
    if kind == "image":
        parts[1] = f"(?:{parts[1]})?"
    absent = "".join(f"(?P<{name}>)" for name in _GROUPS if name not in cells)
    return re.compile(f"^{''.join(parts).removesuffix(mark)}{absent}$", re.MULTILINE)


def append_plain(table: RecordTable, batch: Sequence[tuple[int, str]], plain: re.Pattern[str]) -> bool:
    """Append the records of numbered lines, or none and return False if one of them is faulty or not plain.

    Columns of several lines are converted at once, which takes less time than line by line.
    """
    numbers, lines = zip(*batch, strict=True)
    found = plain.findall("\n".join(lines))
    if len(found) != len(lines):
        return False
    columns = dict(zip(plain.groupindex, zip(*found, strict=True), strict=True))
    totals = [int(total or 1) for total in columns["total_frames"] if table.folders]
    starts, ends = ([float(time) for time in columns[name] if table.unit] for name in ("start", "end"))
    if any(map(ge, starts, ends)) or any(map(gt, ends, totals)):
        return False
    try:
        targets = list(map(_label_parser(table.task), columns["label"]))
    except LineError:
        return False
    table.extend(columns["path"], targets, numbers, totals, starts, ends)
    return True


def _label_pattern(task: LabelTask) -> str:
    value = {"classification": _INTEGER, "multilabel": _INTEGER, "regression": f"-?{_NUMBER}"}[task]
    return value if task == "classification" else f"{value}(?:{JOINT}{value})*"


def _label_parser(task: LabelTask) -> Callable[[str], Target]:
    return {"classification": int, "multilabel": _plain_classes, "regression": _plain_numbers}[task]


def _plain_classes(text: str) -> tuple[int, ...]:
    values = text.split(JOINT)
    classes = sorted(set(map(int, values)))
    if len(classes) < len(values):
        raise LineError  # `parse_line` says which is there twice
    return tuple(classes)


def _plain_numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(JOINT)))
