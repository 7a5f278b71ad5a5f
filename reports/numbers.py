"""The report of a regression: metrics and a diagram for each target, and the worst misses."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from common.figures import svg
from common.palette import GREY, SERIES
from reports.media import Pictures, data_uri
from reports.verdict import Judgement

SHOWN_MISSES, SHOWN_TARGETS = 12, 12


def section(results: dict, names: Sequence[str], pictures: Pictures) -> dict[str, Any]:
    """Return the variables of regression.html, with the headline and verdict of the page.

    Args:
        results: Contents of results.json.
        names: Names of the targets.
        pictures: Pictures of the tested videos.
    """
    rows = [row | {"name": name} for row, name in zip(results["targets"], names, strict=True)]
    return {
        "page": "regression.html",
        "headline": _headline(rows, results["error"]),
        "verdict": _judge(rows),
        "named_targets": rows,
        "diagram_pictures": _diagrams(results["predictions"], names[:SHOWN_TARGETS]),
        "misses_shown": [
            miss | {"clip": pictures.clip(miss["line"])} for miss in results["worst_misses"][:SHOWN_MISSES]
        ],
        "target_labels": list(names),
    }


def tables(results: dict, names: Sequence[str]) -> dict[str, list[dict]]:
    """Return the rows of the tables for download."""
    return {
        "targets": [row | {"name": name} for row, name in zip(results["targets"], names, strict=True)],
        "predictions": [
            {"line": row["line"]}
            | {f"{name}, in the list": value for name, value in zip(names, row["target"], strict=True)}
            | {f"{name}, predicted": value for name, value in zip(names, row["prediction"], strict=True)}
            for row in results["predictions"]
        ],
    }


def _diagrams(predictions: Sequence[dict], names: Sequence[str]) -> list[str]:
    """Draw the predicted over the true numbers of each of the first targets, as data URIs."""
    targets = np.array([row["target"] for row in predictions])
    found = np.array([row["prediction"] for row in predictions])
    figures = (_diagram(targets[:, place], found[:, place], name) for place, name in enumerate(names))
    return [data_uri(svg(figure), "image/svg+xml") for figure in figures]


def _diagram(targets: np.ndarray, found: np.ndarray, name: str) -> Figure:
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    ends = [min(targets.min(), found.min()), max(targets.max(), found.max())]
    axes.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, label="prediction = list")
    axes.scatter(targets, found, color=SERIES[0], s=12, alpha=0.6, linewidths=0)
    axes.set_xlabel(f"{name}, in the list", parse_math=False)
    axes.set_ylabel("predicted")
    axes.legend(fontsize=8, framealpha=0)
    axes.grid(color=GREY, alpha=0.3)
    return figure


def _headline(rows: Sequence[dict], error: float) -> list[tuple[str, str]]:
    if len(rows) > 1:
        mean = float(np.mean([row["r2"] for row in rows]))
        return [
            (f"{mean:.3f}", f"R², mean of {len(rows)} targets"),
            (f"{error:.3f}", "squared error, in variances of the training list"),
        ]
    (row,) = rows
    return [
        (f"{row['r2']:.3f}", "R², 0 for the mean of the test list"),
        (f"{row['mae']:.4g}", f"mean absolute error; {row['constant_mae']:.4g} with the training mean for all"),
        (f"{row['mse']:.4g}", f"mean squared error; {row['constant_mse']:.4g} with the training mean for all"),
        (f"{row['pearson']:.3f}", "Pearson's correlation"),
        (f"{row['spearman']:.3f}", "Spearman's correlation"),
    ]


def _judge(rows: Sequence[dict]) -> Judgement:
    useless = [row["name"] for row in rows if row["mse"] >= row["constant_mse"]]
    if useless:
        which = "The predictions are" if len(rows) == 1 else f"The predictions of {', '.join(useless)} are"
        return Judgement("bad", f"{which} no better than the training mean for every video.")
    share = max(row["mse"] / row["constant_mse"] for row in rows)
    worst = "The squared error is" if len(rows) == 1 else "The largest squared error of a target is"
    return Judgement("good" if share < 0.5 else "weak", f"{worst} {100 * share:.0f} % of that of the training mean.")
