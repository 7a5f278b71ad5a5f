"""Figures of a run, drawn without a display: training curves, confusion matrix, reliability diagram.

`counts`, `calibration` as in `engines.objectives.class_statistics`; `epochs` are the records of a run's log.txt.
"""

import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2563a8", "#d9822b", "#9aa5b1"


class Scale(NamedTuple):
    """How a figure is shown: its label, and the limits of its axis, None for those of the data."""

    label: str
    limits: tuple[float, float] | None = None


SCORES = {"acc1": Scale("top-1 (%)", (0, 100))}  # figures with a better label than their name
NAMED_CLASSES = 40  # up to here a confusion matrix has names and counts written in


def png(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def training_curves(epochs: Sequence[dict], score: str | None = "acc1") -> Figure:
    """Loss, score, learning rate and throughput by epoch; a number that was not finite leaves a gap.

    Args:
        epochs: records of log.txt.
        score: name of the figure that chose the best checkpoint; None leaves its axes empty.
    """
    figure = Figure(figsize=(10, 6), layout="constrained")
    (loss, judged), (rate, throughput) = figure.subplots(2, 2)
    _curves(loss, epochs, {"train_loss": "training", "val_loss": "validation", "val_ema_loss": "validation, average"})
    _curves(judged, epochs, {f"val_{score}": "validation", f"val_ema_{score}": "validation, average"})
    _curves(rate, epochs, {"train_lr": "at the end of the epoch"})
    _curves(throughput, epochs, {"train_clips_per_second": "training"})
    loss.set(ylabel="loss")
    scale = SCORES.get(score, Scale(score or "no score"))
    judged.set(ylabel=scale.label, ylim=scale.limits)
    rate.set(ylabel="learning rate", xlabel="epoch")
    throughput.set(ylabel="clips / s", xlabel="epoch")
    throughput.margins(y=0.1)
    throughput.set_ylim(bottom=0)
    return figure


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """The matrix (classes, classes), true class by row, in per cent of the row; counts and names where they fit."""
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    classes = len(counts)
    few = classes <= NAMED_CLASSES
    side = max(4.5, 0.5 * classes + 2) if few else 10
    figure = Figure(figsize=(side, side if few else 0.85 * side), layout="constrained")
    axes = figure.subplots()
    # Among many classes single mistakes are a few per cent of a row: a curved scale lets them be seen.
    scale = PowerNorm(1 if few else 0.4, 0, 100)
    picture = axes.imshow(shares, cmap="Blues", norm=scale, interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="true")
    if few:
        axes.set_xticks(range(classes), [_short(name) for name in names], rotation=45, ha="right")
        axes.set_yticks(range(classes), [_short(name) for name in names])
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 50 else "black"
            axes.text(column, row, int(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    else:
        figure.colorbar(picture, ax=axes, label="% of the true class", shrink=0.6)
    return figure


def reliability_diagram(calibration: dict) -> Figure:
    """Accuracy against confidence by bin, and how many videos each bin has."""
    bins = calibration["bins"]
    places = [(entry["from"] + entry["to"]) / 2 for entry in bins]
    width = bins[0]["to"] - bins[0]["from"]
    figure = Figure(figsize=(5, 5), layout="constrained")
    accuracy, videos = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    accuracy.bar(places, [entry["accuracy"] or 0 for entry in bins], 0.9 * width, color=BLUE, label="accuracy")
    told = [entry for entry in bins if entry["videos"]]
    confidences = [entry["confidence"] for entry in told]
    accuracy.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="accuracy = confidence")
    accuracy.scatter(confidences, confidences, color=ORANGE, zorder=3, s=14, label="mean confidence of a bin")
    accuracy.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    accuracy.legend(loc="upper left", fontsize=8)
    videos.bar(places, [entry["videos"] for entry in bins], 0.9 * width, color=GREY)
    videos.set(xlabel="confidence", ylabel="videos")
    return figure


def _curves(axes: Axes, epochs: Sequence[dict], labels: dict[str, str]) -> None:
    """Draw the numbers of log.txt that are there, each under its label."""
    numbers = [record["epoch"] + 1 for record in epochs]
    for (key, label), colour in zip(labels.items(), (BLUE, ORANGE, GREY), strict=False):
        values = [record.get(key) for record in epochs]
        if any(value is not None for value in values):
            values = [np.nan if value is None else value for value in values]
            axes.plot(
                numbers, values, color=colour, label=label, marker="o" if len(epochs) < 30 else None, markersize=3
            )
    if axes.lines:
        axes.legend(fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def _short(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
