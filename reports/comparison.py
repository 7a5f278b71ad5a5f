"""Two tests of the same videos: McNemar's test of their difference (Psychometrika 12, 1947), over all and by class."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

NORMAL_95 = 1.959964  # standard deviations on each side that hold 95 % of a normal distribution


class CompareError(ValueError):
    """Two results that cannot be compared; the message says why."""


@dataclass(frozen=True)
class Comparison:
    """Accuracies of two runs on the same videos, in percent.

    Attributes:
        videos: compared. accuracy_a, accuracy_b: of each run.
        only_a, only_b: videos that one run alone classified rightly.
        p_value: of McNemar's test that both runs err equally often.
    """

    videos: int
    accuracy_a: float
    accuracy_b: float
    only_a: int
    only_b: int
    p_value: float

    @property
    def difference(self) -> float:
        """B's accuracy minus A's, in percentage points."""
        return self.accuracy_b - self.accuracy_a

    @property
    def half_width(self) -> float:
        """Half of the 95 % confidence interval of the difference (Wald's, of paired shares), in points.

        Where all videos agree on the difference, Wald's interval would be empty; the exact (Clopper-Pearson) bound on
        the share of videos that differ from them takes its place.
        """
        share = (self.only_a + self.only_b) / self.videos
        variance = share - ((self.only_b - self.only_a) / self.videos) ** 2
        if variance <= 0:
            return 100 * float(binomtest(0, self.videos).proportion_ci().high)
        return 100 * NORMAL_95 * math.sqrt(variance / self.videos)


@dataclass(frozen=True)
class Outcome:
    """All videos, each class by its label, Holm's p-values of the classes, and how many videos one run alone read."""

    overall: Comparison
    classes: dict[int, Comparison]
    corrected: dict[int, float]
    left_out: int


def read_results(path: Path) -> dict[str, Any]:
    """Read a results.json.

    Raises:
        OSError: it cannot be read. CompareError: it is none, or older than the predictions in it.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CompareError(f"{path} is no results.json: {error}") from error
    if not isinstance(results, dict) or "predictions" not in results:
        raise CompareError(f"{path} has no predicted classes; of a classifier, test again with --eval to get them")
    return results | {"file": str(path)}


def compare(first: dict[str, Any], second: dict[str, Any]) -> Outcome:
    """Compare what `read_results` returned, video by video.

    Raises:
        CompareError: the lists or the numbers of classes differ, or no video was read by both.
    """
    if first["list"]["sha256"] != second["list"]["sha256"]:
        lists = [f"{results['list']['file']} ({results['list']['records']} records)" for results in (first, second)]
        raise CompareError(
            f"{first['file']} and {second['file']} are of different lists, {' and '.join(lists)}: "
            "only tests of the same videos and labels can be compared"
        )
    rows = {row["line"]: row for row in second["predictions"]}
    pairs = [(row, rows[row["line"]]) for row in first["predictions"] if row["line"] in rows]
    if not pairs:
        raise CompareError("there is no video that both runs could read")
    labels = np.array([row["label"] for row, _ in pairs])
    right = np.array([[row["prediction"] == row["label"] for row in pair] for pair in pairs])
    classes = {int(label): _compare(right[labels == label]) for label in np.unique(labels)}
    return Outcome(
        overall=_compare(right),
        classes=classes,
        corrected=dict(zip(classes, holm([entry.p_value for entry in classes.values()]), strict=True)),
        left_out=len(first["predictions"]) + len(second["predictions"]) - 2 * len(pairs),
    )


def _compare(right: np.ndarray) -> Comparison:
    """From right or wrong, bool (videos, 2), of A and B."""
    only_a, only_b = (int((right[:, run] & ~right[:, 1 - run]).sum()) for run in (0, 1))
    accuracy_a, accuracy_b = (100 * right.mean(0)).tolist()
    return Comparison(len(right), accuracy_a, accuracy_b, only_a, only_b, mcnemar(only_a, only_b))


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p-value of McNemar's exact test from the discordant counts."""
    total = only_a + only_b
    return float(binomtest(only_a, total).pvalue) if total else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of several p-values, in their order."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    return corrected.tolist()
