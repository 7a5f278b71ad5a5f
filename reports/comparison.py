"""Comparison of two tests on the same videos with McNemar's test (Psychometrika 12, 1947), overall and per class."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

NORMAL_95 = 1.959964  # 97.5 % quantile of the standard normal distribution


class CompareError(ValueError):
    """The two results cannot be compared; the message says why."""


@dataclass(frozen=True)
class Comparison:
    """Accuracies of two runs on the same videos, in percent.

    Attributes:
        videos: Number of videos compared.
        accuracy_a: Accuracy of run A.
        accuracy_b: Accuracy of run B.
        only_a: Number of videos that only A classified correctly.
        only_b: Number of videos that only B classified correctly.
        p_value: Result of McNemar's test; the null hypothesis is that both runs are equally accurate.
    """

    videos: int
    accuracy_a: float
    accuracy_b: float
    only_a: int
    only_b: int
    p_value: float

    @property
    def difference(self) -> float:
        """Accuracy of B minus that of A, in percentage points."""
        return self.accuracy_b - self.accuracy_a

    @property
    def half_width(self) -> float:
        """Half-width of the 95 % confidence interval of the difference (Wald, paired proportions), in points.

        If all videos give the same difference, Wald's interval would be empty; then it is the exact (Clopper-Pearson)
        upper bound on the proportion of videos with another difference.
        """
        share = (self.only_a + self.only_b) / self.videos
        variance = share - ((self.only_b - self.only_a) / self.videos) ** 2
        if variance <= 0:
            from scipy.stats import binomtest

            return 100 * float(binomtest(0, self.videos).proportion_ci().high)
        return 100 * NORMAL_95 * math.sqrt(variance / self.videos)


@dataclass(frozen=True)
class Outcome:
    """The result of a comparison.

    Attributes:
        overall: Comparison of all videos.
        classes: Comparison of the videos of each class, by label.
        corrected: P-value of each class with Holm's correction, by label.
        left_out: Number of videos that only one of the runs could read.
    """

    overall: Comparison
    classes: dict[int, Comparison]
    corrected: dict[int, float]
    left_out: int


def read_results(path: Path) -> dict[str, Any]:
    """Read a results.json.

    Raises:
        OSError: The file cannot be read.
        CompareError: It is not a results.json, has no predictions, or is of another task than classification.
    """
    if not path.is_file():
        raise CompareError(f"{path} is not a file; name the results.json in the --output_dir of a tested run")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CompareError(f"{path} is not a results.json: {error}") from error
    if not isinstance(results, dict) or not {"predictions", "list"} <= results.keys():
        raise CompareError(
            f"{path} contains no predicted classes; if it belongs to a classifier, repeat the test with --eval"
        )
    if results.get("task", "classification") != "classification":
        raise CompareError(f"{path} is of --task {results['task']}; only runs with one class a video are compared")
    return results | {"file": str(path)}


def compare(first: dict[str, Any], second: dict[str, Any]) -> Outcome:
    """Compare two results of `read_results`, video by video.

    Raises:
        CompareError: The lists differ, or there is no video that both could read.
    """
    if first["list"]["sha256"] != second["list"]["sha256"]:
        lists = [f"{results['list']['file']} ({results['list']['records']} records)" for results in (first, second)]
        raise CompareError(
            f"{first['file']} and {second['file']} are tests of different lists, {' and '.join(lists)}: "
            "only tests on the same videos and labels can be compared"
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
    """Compare A and B by whether their predictions are right, bool (videos, 2)."""
    only_a, only_b = (int((right[:, run] & ~right[:, 1 - run]).sum()) for run in (0, 1))
    accuracy_a, accuracy_b = (100 * right.mean(0)).tolist()
    return Comparison(len(right), accuracy_a, accuracy_b, only_a, only_b, mcnemar(only_a, only_b))


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test for the discordant counts."""
    from scipy.stats import binomtest  # here because it takes seconds to import

    total = only_a + only_b
    return float(binomtest(only_a, total).pvalue) if total else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Apply Holm's step-down correction to several p-values; their order is kept."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(np.asarray(p_values)[order] * factors), 1)
    return corrected.tolist()
