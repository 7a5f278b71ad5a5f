"""The records of a list: which file or folder each clip is, its label and its line."""

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, overload

from datasets.segments import Segment


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
    """Records of whole clips with one class each, stored in columns; a record is built whenever it is asked for.

    A list of a million objects would take a third of a GiB, once more in every dataloader worker: reading an object
    changes its reference count, and with it the page of memory that the worker shared until then.

    Args:
        root: Folder of relative paths.
        folders: Whether they are `FrameFolderRecord`s rather than `VideoRecord`s.
    """

    def __init__(self, root: str = "", *, folders: bool = False):
        self.root, self.folders = root, folders
        self._paths, self._ends = bytearray(), array("q")  # one after another, and where each ends
        self._targets, self._lines, self._frames = array("i"), array("i"), array("i")

    def append(self, path: str, target: int, line: int, total_frames: int = 0) -> None:
        """Add a record; `path` may be relative to the root."""
        self._paths += path.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._paths))
        self._targets.append(target)
        self._lines.append(line)
        if self.folders:
            self._frames.append(total_frames)

    def targets(self) -> list[int]:
        """Return the targets of all records."""
        return self._targets.tolist()

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        path = self._paths[self._ends[place - 1] if place else 0 : self._ends[place]]
        path = os.path.join(self.root, path.decode("utf-8", "surrogateescape"))
        target, line = self._targets[place], self._lines[place]
        if self.folders:
            return FrameFolderRecord(path, self._frames[place], target, line)
        return VideoRecord(path, target, line)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType]


def compact(records: Iterable[Any]) -> Sequence[Any]:
    """Return the records in columns if they are whole clips with one class each, or else as a list."""
    if isinstance(records, RecordTable):
        return records
    records = list(records)
    if {type(record) for record in records} not in ({VideoRecord}, {FrameFolderRecord}):
        return records
    if any(record.segment or type(record.target) is not int for record in records):
        return records
    table = RecordTable(folders=isinstance(records[0], FrameFolderRecord))
    for record in records:
        table.append(record.path, record.target, record.line, getattr(record, "total_frames", 0))
    return table


def targets_of(records: Sequence[Any]) -> list[Any]:
    """Return the targets of records, without building them where they are stored in columns."""
    return records.targets() if isinstance(records, RecordTable) else [record.target for record in records]
