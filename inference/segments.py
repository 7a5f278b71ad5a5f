"""From a curve to segments: stretches of time, each with its class, by smoothing and hysteresis. Pure functions.

Symbols: N = frames in the video, n = number of windows, W = frames per window.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from datasets.labelled_segments import LabelledSegment
from inference.defaults import LEAVE_SHARE, UNSURE
from inference.windows import Curve

NO_CLASS = -1
FRAMES_AT_ONCE = 4096  # limits the interpolated probabilities in memory


@dataclass(frozen=True)
class SegmentSettings:
    """How segments are read off a curve.

    Attributes:
        enter: A segment has a moment at which the probability of its class is at least this.
        leave: It extends to both sides as long as its class is the most probable one and at least this probable.
        smooth: Length over which the curve is averaged, in seconds, or in frames if the rate is unknown; None: half a
            window.
        shortest: Shorter segments are left out, and shorter gaps within a class are closed; units and None as above.
    """

    enter: float = UNSURE
    leave: float = LEAVE_SHARE * UNSURE
    smooth: float | None = None
    shortest: float | None = None

    def __post_init__(self) -> None:
        if self.leave > self.enter:
            raise ValueError(f"a segment cannot enter at {self.enter:g} and leave at {self.leave:g}, which is higher")


def find_segments(
    curve: Curve, settings: SegmentSettings | None = None, *, several: bool = False
) -> list[LabelledSegment]:
    """Find the segments of a video, in order of time.

    This is thresholding with hysteresis (Canny, 1986) of the most probable class at each frame. The probability of a
    segment's class at its edge is therefore `leave`, or equal to that of the next class. The confidence is the mean
    of the smoothed probability over the segment.

    Args:
        curve: Probabilities over time.
        settings: Thresholds and durations; None for the defaults.
        several: Follow each class on its own, for a model of several classes at a time, whose segments may overlap.
    """
    settings = settings or SegmentSettings()
    smoothed = smooth(curve, _frames(curve, settings.smooth))
    tracks = _each_class(smoothed, settings.enter) if several else [most_probable(smoothed)]
    shortest = _frames(curve, settings.shortest)
    runs = [run for labels, heights in tracks for run in _find_runs(labels, heights, settings, shortest)]
    return [_segment(smoothed, run) for run in sorted(runs)]


def smooth(curve: Curve, length: float) -> Curve:
    """Replace the probabilities of each window by the mean over all windows centred within `length` / 2 frames."""
    centres = curve.centres
    first = np.searchsorted(centres, centres - length / 2)
    end = np.searchsorted(centres, centres + length / 2, side="right")
    sums = np.concatenate([np.zeros((1, curve.probabilities.shape[1])), curve.probabilities.cumsum(0, dtype=float)])
    means = (sums[end] - sums[first]) / (end - first)[:, None]
    return replace(curve, probabilities=means.astype(np.float32))


def most_probable(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Return the most probable class of each frame (N,) int64 and its probability (N,) float64."""
    parts = [
        curve.at(np.arange(start, min(start + FRAMES_AT_ONCE, curve.total_frames)))
        for start in range(0, curve.total_frames, FRAMES_AT_ONCE)
    ]
    return tuple(np.concatenate(rows) for rows in ([p.argmax(1) for p in parts], [p.max(1) for p in parts]))


def _each_class(curve: Curve, enter: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield label and probability at each frame, as `most_probable`, for every class that reaches `enter`."""
    frames = np.arange(curve.total_frames)
    for label in np.flatnonzero(curve.probabilities.max(0) >= enter):
        yield np.full(len(frames), label), np.interp(frames, curve.centres, curve.probabilities[:, label])


class _Run(NamedTuple):
    """Frames [first, end) of one class."""

    first: int
    end: int
    label: int


def _find_runs(labels: np.ndarray, heights: np.ndarray, settings: SegmentSettings, shortest: float) -> list[_Run]:
    """Find runs of one label (N,) with hysteresis of its probability (N,), of at least `shortest` frames."""
    labels = np.where(heights >= settings.leave, labels, NO_CLASS)
    runs = [
        run for run in _runs(labels) if run.label != NO_CLASS and heights[run.first : run.end].max() >= settings.enter
    ]
    return _close_gaps([run for run in _close_gaps(runs, shortest) if run.end - run.first >= shortest], shortest)


def _runs(labels: np.ndarray) -> Iterator[_Run]:
    """Yield the runs of equal labels (N,)."""
    borders = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    for first, end in zip(borders, borders[1:], strict=False):
        yield _Run(first, end, int(labels[first]))


def _close_gaps(runs: Sequence[_Run], shortest: float) -> list[_Run]:
    """Join neighbours of one class with less than `shortest` frames between them."""
    joined: list[_Run] = []
    for run in runs:
        if joined and joined[-1].label == run.label and run.first - joined[-1].end < shortest:
            joined[-1] = joined[-1]._replace(end=run.end)
        else:
            joined.append(run)
    return joined


def _segment(curve: Curve, run: _Run) -> LabelledSegment:
    probabilities = np.interp(np.arange(run.first, run.end), curve.centres, curve.probabilities[:, run.label])
    start, end = (float(curve.seconds(frame)) for frame in (run.first, run.end))
    return LabelledSegment(start, end, run.label, float(probabilities.mean()))


def _frames(curve: Curve, duration: float | None) -> float:
    """Convert a duration in the units of `SegmentSettings` to frames."""
    if duration is None:
        return curve.window / 2
    return duration * float(curve.rate or 1)
