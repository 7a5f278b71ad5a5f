"""Which classes need motion: the test beside the same test on clips with one frame repeated, or in random order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reports.accuracy import Accuracy
from reports.comparison import compare

SIGNIFICANT = 0.05
TITLES = {"static": "one frame repeated", "shuffled": "random order"}
NEEDS = {"static": "motion", "shuffled": "the order of frames"}


@dataclass(frozen=True)
class ClassRow:
    """A class, or all of them, in the test and in each control.

    Attributes:
        name: Of the class.
        videos: Number of videos that the test and all controls could read.
        accuracies: By name of the control, and "normal".
        predicted: How often the class was predicted, likewise; empty for all classes.
        lost: Controls in which the accuracy is lower, by McNemar's test with Holm's correction over the classes.
    """

    name: str
    videos: int
    accuracies: dict[str, Accuracy]
    predicted: dict[str, int]
    lost: list[str]


@dataclass(frozen=True)
class TemporalControls:
    """What the controls of a test say.

    Attributes:
        names: Of the controls.
        overall: All classes together.
        classes: A row per class, largest loss in the first control first.
    """

    names: list[str]
    overall: ClassRow
    classes: list[ClassRow]

    @property
    def titles(self) -> dict[str, str]:
        """Return the headings of the controls."""
        return {name: TITLES[name] for name in self.names}

    @property
    def sentences(self) -> list[str]:
        """Say for each control how many classes lose, and which do not."""
        found = []
        for name in self.names:
            kept = [row.name for row in self.classes if name not in row.lost]
            lost = len(self.classes) - len(kept)
            rest = f"; no loss is shown for {', '.join(kept)}" if lost and kept else ""
            found.append(f"{lost} of {len(self.classes)} classes are shown to need {NEEDS[name]}{rest}.")
        return found

    def table(self) -> list[dict[str, Any]]:
        """Return the rows for download."""
        return [
            {"class": row.name, "videos": row.videos}
            | {f"{name}_top1": accuracy.percent for name, accuracy in row.accuracies.items()}
            | {f"{name}_predicted": count for name, count in row.predicted.items()}
            | {f"{name}_lower": name in row.lost for name in self.names}
            for row in self.classes
        ]


def temporal_controls(results: dict[str, Any], names: Sequence[str]) -> TemporalControls:
    """Compare a test with its controls, video by video.

    Args:
        results: Content of results.json with `temporal_controls`.
        names: Names of the classes.
    """
    tests = {"normal": results} | results["temporal_controls"]
    shared = set.intersection(*({row["line"] for row in test["predictions"]} for test in tests.values()))
    rows = {name: [r for r in test["predictions"] if r["line"] in shared] for name, test in tests.items()}
    same_list = {"list": {"sha256": ""}}
    outcomes = {
        name: compare(same_list | {"predictions": rows["normal"]}, same_list | {"predictions": rows[name]})
        for name in results["temporal_controls"]
    }
    classes = []
    for label in sorted({int(row["label"]) for row in rows["normal"]}):
        lost = [
            name
            for name, outcome in outcomes.items()
            if outcome.classes[label].difference < 0 and outcome.corrected[label] < SIGNIFICANT
        ]
        classes.append(_row(names[label], rows, label, lost))
    first = next(iter(outcomes))
    classes.sort(key=lambda row: row.accuracies[first].percent - row.accuracies["normal"].percent)
    worse = [
        name
        for name, found in outcomes.items()
        if found.overall.difference < 0 and found.overall.p_value < SIGNIFICANT
    ]
    return TemporalControls(list(outcomes), _row("all classes", rows, None, worse), classes)


def _row(name: str, rows: dict[str, list[dict]], label: int | None, lost: list[str]) -> ClassRow:
    """Return the row of a class; of all classes if `label` is None."""
    chosen = {test: [row for row in some if label in (None, row["label"])] for test, some in rows.items()}
    videos = len(chosen["normal"])
    accuracies = {
        test: Accuracy.of(sum(row["prediction"] == row["label"] for row in some), videos)
        for test, some in chosen.items()
    }
    predicted = {test: sum(row["prediction"] == label for row in some) for test, some in rows.items()}
    return ClassRow(name, videos, accuracies, {} if label is None else predicted, lost)
