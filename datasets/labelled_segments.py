"""Segments of videos with their classes, as lists hold them and as scores and pictures use them."""

import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from datasets.annotations import ListFileError, read_list
from datasets.segments import Unit


class LabelledSegment(NamedTuple):
    """A stretch of a video and its class; times in seconds or frames."""

    start: float
    end: float
    label: int
    confidence: float = 1.0


class SegmentList(NamedTuple):
    """Segments by the absolute path of their video, each in order of time, and the unit of their times."""

    videos: dict[str, list[LabelledSegment]]
    unit: Unit


def read_segments(list_file: Path, *, data_root: str = "", num_classes: int = 0) -> SegmentList:
    """Read a list of segments, such as one for training or one that run_inference.py wrote.

    Args:
        list_file: List with a header; its forms are described in `datasets.segments`.
        data_root: Folder that relative paths are resolved against.
        num_classes: Upper limit of the labels (exclusive); 0 accepts all labels from 0.

    Raises:
        FileNotFoundError: The list does not exist.
        ListFileError: The list has invalid lines, or a line without start and end.
    """
    records, _ = read_list(list_file, data_root=data_root, num_classes=num_classes)
    videos: dict[str, list[LabelledSegment]] = defaultdict(list)
    unit: Unit = "seconds"
    for record in records:
        if record.segment is None:
            raise ListFileError(
                f"{list_file}, line {record.line}: there is no start and no end; a list of segments begins with the "
                "line path,start,end,label"
            )
        unit = record.segment.unit  # the same for the whole list
        segment = LabelledSegment(record.segment.start, record.segment.end, record.target)
        videos[os.path.abspath(record.path)].append(segment)
    return SegmentList({path: sorted(segments) for path, segments in videos.items()}, unit)
