"""The report of a test with several labels per clip: all classes, and the worst decisions."""

from collections.abc import Sequence
from typing import Any

from reports.media import Pictures
from reports.verdict import Judgement

SHOWN_MISTAKES = 12


def section(results: dict, names: Sequence[str], pictures: Pictures) -> dict[str, Any]:
    """Return the variables of multilabel.html, with the headline and verdict of the page.

    Args:
        results: Contents of results.json.
        names: Names of the classes.
        pictures: Pictures of the tested videos.
    """
    rows = [row | {"name": names[row["label"]]} for row in results["per_class"]]
    rows.sort(key=lambda row: -1 if row["ap"] is None else row["ap"], reverse=True)
    evaluated = results["num_classes"] - len(results["without_positives"])
    origin = "chosen by the validation" if results["threshold_from"] == "validation" else "no validation chose one"
    headline = [
        (f"{100 * results['mean_ap']:.1f} %", f"mAP, mean of {evaluated} of {results['num_classes']} classes"),
        (f"{100 * results['prior']:.1f} %", "mAP of a random ranking"),
        (f"{100 * results['micro_f1']:.1f} %", "F1 over all decisions"),
        (f"{100 * results['macro_f1']:.1f} %", "F1, mean of the classes"),
        (f"{results['threshold']:.3f}", f"threshold, {origin}"),
        (f"{results['loss']:.3f}", "loss"),
    ]
    return {
        "page": "multilabel.html",
        "headline": headline,
        "verdict": _judge(results),
        "classes_by_ap": rows,
        "without_names": [names[label] for label in results["without_positives"]],
        "mistakes_shown": [
            mistake | {"name": names[mistake["label"]], "clip": pictures.clip(mistake["line"])}
            for mistake in results["worst_mistakes"][:SHOWN_MISTAKES]
        ],
    }


def tables(results: dict, names: Sequence[str]) -> dict[str, list[dict]]:
    """Return the rows of the tables for download, with the names of the classes."""
    return {
        "classes": [row | {"label": names[row["label"]]} for row in results["per_class"]],
        "mistakes": [row | {"label": names[row["label"]]} for row in results["worst_mistakes"]],
    }


def _judge(results: dict) -> Judgement:
    found, prior = results["mean_ap"], results["prior"]
    if found <= min(1.2 * prior, prior + 0.2 * (1 - prior)):  # the latter where most labels are positive
        return Judgement("bad", "The classes are ranked hardly better than at random.")
    level = "good" if found - prior > (1 - prior) / 2 else "weak"
    return Judgement(level, f"The mean average precision is {found / prior:.1f} times that of a random ranking.")
