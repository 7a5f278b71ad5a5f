"""The records of a list: which file or folder each clip is, its label and its line."""

import math
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import sub
from typing import Any, cast, overload

from datasets.labels import LabelTask
from datasets.segments import Segment, Unit


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """A video file, or a segment of it.

    Its target is a `datasets.labels.Target`, when read from a list; `line` is its 1-based line in the list; `segment`
    is None for the whole video.
    """

    path: str
    target: Any
    line: int
    segment: Segment | None = None


@dataclass(frozen=True, slots=True)
class FrameFolderRecord:
    """A folder of frames, or an image file (one frame). As `VideoRecord`, plus the number of frames in the folder."""

    path: str
    total_frames: int
    target: Any
    line: int
    segment: Segment | None = None


Record = VideoRecord | FrameFolderRecord


class RecordTable(Sequence[Record]):
    """Records of a list, stored in columns; a record is built whenever it is asked for.

    A list of a million objects would take a third of a GiB, once more in every dataloader worker: reading an object
    changes its reference count, and with it the page of memory that the worker shared until then.

    Args:
        root: Folder of relative paths.
        folders: Whether they are `FrameFolderRecord`s rather than `VideoRecord`s.
        task: What their targets are.
        unit: Of their segments; None: all are whole clips.
    """

    def __init__(
        self,
        root: str = "",
        *,
        folders: bool = False,
        task: LabelTask = "classification",
        unit: Unit | None = None,
    ):
        self.root, self.folders = root, folders
        self.task: LabelTask = task
        self.unit: Unit | None = unit
        self._paths = _Rows(bytearray())
        self._targets = array("i") if task == "classification" else _Rows(array("i" if task == "multilabel" else "d"))
        self._lines, self._frames = array("i"), array("i")
        self._starts, self._ends = array("d"), array("d")

    def extend(
        self,
        paths: Iterable[str],
        targets: Iterable[Any],
        lines: Iterable[int],
        total_frames: Iterable[int],
        starts: Iterable[float],
        ends: Iterable[float],
    ) -> None:
        """Add records by columns.

        Args:
            paths: May be relative to the root.
            targets: Of the form of the table's task.
            lines: 1-based, in the list.
            total_frames: Of folders; empty otherwise.
            starts: Of segments, NaN for a whole clip; empty in a table without unit.
            ends: As `starts`.
        """
        self._paths.extend(path.encode("utf-8", "surrogateescape") for path in paths)
        self._targets.extend(targets)
        self._lines.extend(lines)
        self._frames.extend(total_frames)
        self._starts.extend(starts)
        self._ends.extend(ends)

    def extend_records(self, records: Sequence[Record]) -> None:
        """Add records, of the form of the others."""
        self.extend(
            [record.path for record in records],
            [record.target for record in records],
            [record.line for record in records],
            [record.total_frames for record in records if isinstance(record, FrameFolderRecord)],
            [record.segment.start if record.segment else math.nan for record in records if self.unit],
            [record.segment.end if record.segment else math.nan for record in records if self.unit],
        )

    def targets(self) -> list[Any]:
        """Return the targets of all records."""
        if isinstance(self._targets, array):
            return self._targets.tolist()
        return [tuple(self._targets[place]) for place in range(len(self))]

    def classes(self) -> set[int]:
        """Return the classes that the targets have, of which a regression's have none."""
        if self.task == "regression":
            return set()
        return set(self._targets if isinstance(self._targets, array) else self._targets.values)

    def target_lengths(self) -> Iterator[int]:
        """Yield how many classes or numbers each target has, where it has several."""
        ends = cast(_Rows, self._targets).ends
        return map(sub, ends, chain([0], ends))

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        path = os.path.join(self.root, self._paths[place].decode("utf-8", "surrogateescape"))
        target, line = self._targets[place], self._lines[place]
        if not isinstance(target, int):
            target = tuple(target)
        segment = None
        if self.unit and not math.isnan(self._starts[place]):
            segment = Segment(self._starts[place], self._ends[place], self.unit)
        if self.folders:
            return FrameFolderRecord(path, self._frames[place], target, line, segment)
        return VideoRecord(path, target, line, segment)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType]


class _Rows:
    """Rows of different lengths, one after another in an array."""

    def __init__(self, values: Any):
        self.values, self.ends = values, array("q")

    def extend(self, rows: Iterable[Any]) -> None:
        for row in rows:
            self.values.extend(row)
            self.ends.append(len(self.values))

    def __getitem__(self, place: int) -> Any:
        return self.values[self.ends[place - 1] if place else 0 : self.ends[place]]


def compact(records: Iterable[Any]) -> Sequence[Any]:
    """Return the records in columns if all are of the same form, or else as a list."""
    if isinstance(records, RecordTable):
        return records
    records = list(records)
    if {type(record) for record in records} not in ({VideoRecord}, {FrameFolderRecord}):
        return records
    task = _task_of_all(record.target for record in records)
    segments = [record.segment for record in records if record.segment]
    units = {segment.unit for segment in segments}
    if not task or len(units) > 1 or any(type(time) is not float for one in segments for time in (one.start, one.end)):
        return records
    table = RecordTable(folders=isinstance(records[0], FrameFolderRecord), task=task, unit=min(units, default=None))
    table.extend_records(records)
    return table


def _task_of_all(targets: Iterable[Any]) -> LabelTask | None:
    """Return the task whose targets have the form of all of these; None if there is none."""
    targets = list(targets)  # not a set, in which 1 and 1.0 are the same
    if all(type(target) is int for target in targets):
        return "classification"
    if any(type(target) is not tuple for target in targets):
        return None
    numbers = {type(number) for target in targets for number in target}
    return "multilabel" if numbers <= {int} else "regression" if numbers == {float} else None


def targets_of(records: Sequence[Any]) -> list[Any]:
    """Return the targets of records, without building them where they are stored in columns."""
    return records.targets() if isinstance(records, RecordTable) else [record.target for record in records]
