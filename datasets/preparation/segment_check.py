"""Check the segments of a list against what is known of their files, and against each other."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


def describe_overlaps(records: Sequence[Any], places: Mapping[int, str]) -> Iterator[tuple[Any, str]]:
    """Yield each record whose segment overlaps with an earlier one of its file, and the finding.

    Args:
        records: Records of videos or frame folders.
        places: Where each record stands, by its line.
    """
    for earlier, later in find_overlaps(records):
        label = "" if earlier.target == later.target else " with another label"
        yield later, f"its segment {later.segment} overlaps with {earlier.segment} of {places[earlier.line]}{label}"


def describe_gaps(records: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """Yield a finding for each stretch of a video, before or between its segments, that none of them covers.

    It comes with the record that follows.
    """
    for record, gap in find_gaps(records):
        yield record, f"no segment covers {gap}"
