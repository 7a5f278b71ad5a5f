"""Segments: labelled stretches of videos, and the lists that name them.

The first line of a list of segments names its columns, in any order:

    path,start,end,label                              times in seconds
    path,start_frame,end_frame,label                  frames, counted from 0
    path,total_frames,start_frame,end_frame,label     folders of frames

Without that line, --segment_unit says that the columns are path, start, end and label, and in which unit. A segment
reaches from its start up to, but without, its end. If both are empty, the label is that of the whole video.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from datasets.list_lines import SEPARATORS, LineError, split_columns

Unit = Literal["seconds", "frames"]
UNITS: tuple[Unit, ...] = ("seconds", "frames")
TIMES: dict[Unit, tuple[str, str]] = {"seconds": ("start", "end"), "frames": ("start_frame", "end_frame")}


@dataclass(frozen=True, slots=True)
class Segment:
    """The stretch of a video from `start` up to, but without, `end`: in seconds, or in frames counted from 0."""

    start: float
    end: float
    unit: Unit = "seconds"

    def __str__(self) -> str:
        return f"{self.start:.10g} to {self.end:.10g} {'s' if self.unit == 'seconds' else '(frames)'}"


@dataclass(frozen=True)
class Layout:
    """The columns of a list of segments.

    Attributes:
        columns: Their names.
        unit: Of start and end.
        separator: Between the columns; None if it is not known yet.
        has_header: Whether line 1 of the list names them.
    """

    columns: tuple[str, ...]
    unit: Unit
    separator: str | None = None
    has_header: bool = False

    @property
    def folders(self) -> bool:
        """Whether the list is one of frame folders."""
        return "total_frames" in self.columns

    def cells(self, columns: Sequence[str]) -> dict[str, str]:
        """Name the columns of a line; those that are missing at its end are empty.

        Raises:
            LineError: There are too many.
        """
        if len(columns) > len(self.columns):
            raise LineError(
                f"there are {len(columns)} columns instead of {len(self.columns)}; quote a path of several"
            )
        return dict.fromkeys(self.columns, "") | dict(zip(self.columns, columns, strict=False))

    def segment(self, cells: Mapping[str, str]) -> Segment | None:
        """Read start and end of a line; None if both are empty.

        Raises:
            LineError: They are not a stretch of a video.
        """
        names = TIMES[self.unit]
        if not any(cells[name] for name in names):
            return None
        start, end = (_time(cells[name], name, self.unit) for name in names)
        if end <= start:
            raise LineError(f"the segment ends at {cells[names[1]]}, not after its start at {cells[names[0]]}")
        return Segment(start, end, self.unit)


def find_layout(first_line: str, unit: Unit | None = None) -> Layout | None:
    """Find the columns of a list of segments; None if it is a list of whole videos.

    Args:
        first_line: First line of the list that is not empty.
        unit: Unit of a list without a header; None: such a list is one of whole videos.

    Raises:
        LineError: The header lacks a column, or contradicts `unit`.
    """
    for separator in SEPARATORS.values():
        names = tuple(name.lower() for name in split_columns(first_line, separator))
        units: list[Unit] = [named for named in UNITS if set(TIMES[named]) <= set(names)]
        named_both = {"path", "label"} <= set(names)
        if not units and not (named_both and {"start", "end", "start_frame", "end_frame"} & set(names)):
            continue
        if len(units) != 1 or not named_both or len(set(names)) < len(names):
            raise LineError("a header should name path, label, and start and end, or start_frame and end_frame, once")
        if unit and units[0] != unit:
            raise LineError(f"the header names times in {units[0]}, --segment_unit in {unit}")
        if "total_frames" in names and units[0] == "seconds":
            raise LineError("folders of frames have no seconds; give start_frame and end_frame")
        return Layout(names, units[0], separator, has_header=True)
    return Layout(("path", *TIMES[unit], "label"), unit) if unit else None


def find_overlaps(records: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of records of one file whose segments overlap: the earlier and the later one in time.

    Each segment is compared with the one before it that reaches furthest.
    """
    for of_file in _in_time(records):
        furthest = of_file[0]
        for record in of_file[1:]:
            if record.segment.start < furthest.segment.end:
                yield furthest, record
            furthest = max(furthest, record, key=lambda one: one.segment.end)


def find_gaps(records: Sequence[Any]) -> Iterator[tuple[Any, Segment]]:
    """Yield the unlabelled stretches of files before and between their segments, each with the record that follows."""
    for of_file in _in_time(records):
        reached = 0.0
        for record in of_file:
            if record.segment.start > reached:
                yield record, Segment(reached, record.segment.start, record.segment.unit)
            reached = max(reached, record.segment.end)


def describe_segment(record: Any) -> dict[str, Any]:
    """Return a record's segment as entries of a report, none for a whole video."""
    segment = getattr(record, "segment", None)
    if segment is None:
        return {}
    return {"start": segment.start, "end": segment.end, "unit": segment.unit}


def _in_time(records: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield the records of each file that has segments, by their starts."""
    files: dict[str, list[Any]] = defaultdict(list)
    for record in records:
        if record.segment is not None:
            files[record.path].append(record)
    for of_file in files.values():
        yield sorted(of_file, key=lambda record: record.segment.start)


def _time(text: str, name: str, unit: Unit) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise LineError(f'{name} should be a number of {unit}, 0 or more, not "{text}"')
    if unit == "frames" and not value.is_integer():
        raise LineError(f'{name} should be a whole number, not "{text}"')
    return value
