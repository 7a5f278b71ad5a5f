"""The result of a test in one sentence, and the numbers behind it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reports.accuracy import Accuracy


class Judgement(NamedTuple):
    """The result of a test in one sentence; the level is "good", "weak" or "bad"."""

    level: str
    sentence: str


class Verdict(NamedTuple):
    """An accuracy in comparison with chance; numbers are in percent.

    Attributes:
        sentence: The verdict.
        level: "good", "weak" or "bad".
        top1: Accuracy.
        low: Lower limit of its 95 % confidence interval (Wilson).
        high: Upper limit.
        chance: Accuracy of random guessing.
        majority: Share of the most frequent class.
        majority_name: Name of that class.
    """

    sentence: str
    level: str
    top1: float
    low: float
    high: float
    chance: float
    majority: float
    majority_name: str


def judge(counts: np.ndarray, names: Sequence[str]) -> Verdict:
    """Compare the accuracy with the share of the most frequent class.

    Args:
        counts: Confusion matrix (classes, classes), true class by row.
        names: Names of the classes.
    """
    videos, hits = int(counts.sum()), int(counts.trace())
    largest = int(counts.sum(1).argmax())
    majority = int(counts[largest].sum())
    accuracy, most_frequent = Accuracy.of(hits, videos), 100 * majority / videos
    share = f"the majority class ({most_frequent:.1f} %)"
    if majority == videos:
        level, comparison = "weak", f"all videos are of one class, {names[largest]}, so this cannot tell good from bad"
    elif hits == videos:
        level, comparison = "good", "every video was classified correctly"
    elif accuracy.low > most_frequent:
        level, comparison = "good", f"clearly above {share}"
    elif hits > majority:
        level, comparison = "weak", f"barely above {share}, which may be chance with {videos} videos"
    else:
        level, comparison = "bad", f"no better than {share}" if hits == majority else f"below {share}"
    predicted = counts.sum(0).nonzero()[0]
    if len(predicted) == 1 and hits < videos:
        comparison += f"; every video was called {names[predicted[0]]}"
    return Verdict(
        f"{accuracy.percent:.1f} %: {comparison}.",
        level,
        accuracy.percent,
        accuracy.low,
        accuracy.high,
        100 / len(counts),
        most_frequent,
        names[largest],
    )
