"""Scores of segments as in action segmentation: F1 at overlaps, edit score, and the share of time labelled rightly.

The definitions are those of Lea et al. (CVPR 2017), as used since MS-TCN (Farha and Gall, CVPR 2019). They are stated
for labels of frames; here they are computed from the times of segments, which gives the same numbers if all times are
whole frames. Two consequences: segments of one class that touch are one, and time outside all segments is a class of
its own (background), which F1 and edit score ignore.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from datasets.labelled_segments import LabelledSegment

OVERLAPS = (0.10, 0.25, 0.50)


class SegmentError(ValueError):
    """Segments cannot be scored."""


@dataclass(frozen=True)
class SegmentScores:
    """Scores in per cent.

    Attributes:
        f1: Overlap -> F1 over the segments of all videos.
        edit: Mean over the videos of one minus the normalised edit distance of the sequences of classes.
        accuracy: Share of the time with the right class ("MoF"); a video's time ends with its last true segment.
        videos: Number of videos.
        true: Number of true segments.
        predicted: Number of predicted segments.
    """

    f1: dict[float, float]
    edit: float
    accuracy: float
    videos: int
    true: int
    predicted: int


def score_segments(
    truth: Mapping[str, Sequence[LabelledSegment]],
    predicted: Mapping[str, Sequence[LabelledSegment]],
    *,
    background: int | None = None,
    overlaps: Sequence[float] = OVERLAPS,
) -> SegmentScores:
    """Compare the predicted segments of videos with the true ones.

    Args:
        truth: Video -> segments.
        predicted: Video -> segments; a video that is absent has none.
        background: Label that counts as no segment; None if there is no such label.
        overlaps: Least intersections over union of F1.

    Raises:
        SegmentError: There is no video, or two segments of a video overlap.
    """
    if not truth:
        raise SegmentError("there is no video with true segments")
    ends = {video: max(segment.end for segment in segments) for video, segments in truth.items()}
    pairs = {
        video: (_tidy(video, segments, background), _tidy(video, predicted.get(video, ()), background))
        for video, segments in truth.items()
    }
    lists = list(pairs.values())
    return SegmentScores(
        {overlap: _f1([count_matches(*pair, overlap) for pair in lists]) for overlap in overlaps},
        sum(edit_score([s.label for s in true], [s.label for s in found]) for true, found in lists) / len(lists),
        100 * sum(agreement(*pairs[video], end) for video, end in ends.items()) / sum(ends.values()),
        len(lists),
        sum(len(true) for true, _ in lists),
        sum(len(found) for _, found in lists),
    )


class Matches(NamedTuple):
    """Numbers of segments."""

    right: int
    wrong: int
    missed: int


def count_matches(truth: Sequence[LabelledSegment], predicted: Sequence[LabelledSegment], overlap: float) -> Matches:
    """Match predicted segments with true ones, in order of time.

    Each predicted segment is compared with the true segment of its class that it overlaps most. It is right if their
    intersection over union is at least `overlap` and no earlier segment was matched with the same one.
    """
    hit: set[int] = set()
    for segment in predicted:
        shares = [_iou(segment, true) if true.label == segment.label else 0.0 for true in truth]
        best = max(range(len(truth)), key=shares.__getitem__, default=None)
        if best is not None and shares[best] >= overlap:
            hit.add(best)
    return Matches(len(hit), len(predicted) - len(hit), len(truth) - len(hit))


def edit_score(truth: Sequence[int], predicted: Sequence[int]) -> float:
    """Return 100 (1 - d / longer length) of sequences of classes at Levenshtein distance d; 100 if both are empty."""
    row = list(range(len(predicted) + 1))
    for i, label in enumerate(truth, start=1):
        previous, row = row, [i]
        for j, other in enumerate(predicted, start=1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (label != other)))
    return 100 * (1 - row[-1] / max(len(truth), len(predicted), 1))


def agreement(truth: Sequence[LabelledSegment], predicted: Sequence[LabelledSegment], end: float) -> float:
    """Return how much of the time from 0 to `end` has the same class, or none, in both."""
    times = {0.0, end, *(t for segment in (*truth, *predicted) for t in (segment.start, segment.end) if 0 < t < end)}
    spans = pairwise(sorted(times))
    return sum(b - a for a, b in spans if _label_at(truth, (a + b) / 2) == _label_at(predicted, (a + b) / 2))


def _tidy(video: str, segments: Sequence[LabelledSegment], background: int | None) -> list[LabelledSegment]:
    """Sort segments, leave out the background and join what touches within a class."""
    tidy: list[LabelledSegment] = []
    for segment in sorted(segments):
        if tidy and segment.start < tidy[-1].end:
            raise SegmentError(
                f"{video}: the segments from {tidy[-1].start:g} and {segment.start:g} overlap; these scores are "
                "defined for one class at a time"
            )
        if tidy and segment.start == tidy[-1].end and segment.label == tidy[-1].label:
            tidy[-1] = tidy[-1]._replace(end=segment.end)
        else:
            tidy.append(segment)
    return [segment for segment in tidy if segment.label != background]


def _f1(counts: Sequence[Matches]) -> float:
    right, wrong, missed = (sum(numbers) for numbers in zip(*counts, strict=True))
    return 100 * 2 * right / (2 * right + wrong + missed) if right else 0.0


def _iou(a: LabelledSegment, b: LabelledSegment) -> float:
    """Intersection over union of two segments; 0 if they do not overlap."""
    intersection = max(0.0, min(a.end, b.end) - max(a.start, b.start))
    return intersection / (max(a.end, b.end) - min(a.start, b.start))


def _label_at(segments: Sequence[LabelledSegment], time: float) -> int | None:
    return next((segment.label for segment in segments if segment.start <= time < segment.end), None)
