"""Check the segments of a list against what is known of their files, and against each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from datasets.annotations import Record, VideoRecord
from datasets.preparation.list_splits import Clip
from datasets.readers import UnreadableVideoError
from datasets.readers.part import frame_range
from datasets.segments import Segment, find_gaps, find_overlaps


@dataclass(frozen=True)
class _CheckedVideo:
    """What `frame_range` needs to know of a video, from the findings of `datasets.preparation.file_check`."""

    path: str
    total_frames: int
    rate: float | None
    times: Sequence[float] | None

    def __len__(self) -> int:
        return self.total_frames


def count_frames(facts: dict[str, Any], segment: Segment) -> tuple[int, str]:
    """Count the frames of a segment.

    Args:
        facts: Findings of its file, as in facts.jsonl.
        segment: The segment.

    Returns:
        The number of frames, and why they cannot be read: "", or that the segment reaches beyond the end.
    """
    video = _CheckedVideo(facts["path"], facts["frames"], facts["rate"], facts["times"] or None)
    try:
        first, end = frame_range(video, segment)
    except UnreadableVideoError as error:
        return 0, error.reason
    return end - first, ""


def describe_overlaps(records: Sequence[Record]) -> Iterator[tuple[Record, str]]:
    """Yield each record whose segment overlaps with an earlier one of its file, and the finding."""
    for earlier, later in find_overlaps(records):
        label = "" if earlier.target == later.target else " with another label"
        yield later, f"its segment {later.segment} overlaps with {earlier.segment} of line {earlier.line}{label}"


def describe_gaps(list_file: Any, records: Sequence[Record]) -> list[str]:
    """Return a line for each stretch of a video, before or between its segments, that none of them covers."""
    return [
        f"{list_file}, line {record.line}: {record.path}: no segment covers {gap}"
        for record, gap in find_gaps(records)
    ]


def describe_stretches(clips: Sequence[Clip], places: Sequence[str], *, gaps: bool) -> list[str]:
    """Return a line for each overlap of the segments of a video, and for each gap if they are asked for.

    Args:
        clips: Clips found in an export.
        places: Place of each clip in the export.
        gaps: Also describe the stretches that no segment covers.
    """
    records = [VideoRecord(clip.found.path, clip.label, line, clip.segment) for line, clip in enumerate(clips)]
    notes = [
        f"warning: {places[later.line]}: {later.path}: {later.segment} overlaps with {earlier.segment} of "
        f"{places[earlier.line]}"
        for earlier, later in find_overlaps(records)
    ]
    found = find_gaps(records) if gaps else ()
    return notes + [f"{places[record.line]}: {record.path}: no segment covers {gap}" for record, gap in found]
