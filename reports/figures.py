"""Figures of a run, drawn without a display: training curves, confusion matrix, reliability diagram.

`counts`, `calibration` as in `engines.objectives.class_statistics`; `epochs` are the records of a run's log.txt.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgba
from matplotlib.figure import Figure

from common.palette import GREY, SERIES

BLUE, ORANGE = SERIES[:2]
# Starts transparent, to suit light and dark pages.
SHARES = LinearSegmentedColormap.from_list("shares", [to_rgba(BLUE, 0), to_rgba(BLUE, 1)])


class Scale(NamedTuple):
    """How a figure is shown: its label, and the limits of its axis, None for those of the data."""

    label: str
    limits: tuple[float, float] | None = None


SCORES = {
    "acc1": Scale("top-1 (%)", (0, 100)),
    "map": Scale("mAP at IoU 0.5", (0, 1)),
    "mean_ap": Scale("mAP", (0, 1)),
    "error": Scale("error (1: training mean)"),
}  # figures with a better label than their name
COUNTED_CLASSES = 12  # up to here the cells of a confusion matrix have counts and percentages
NAMED_CLASSES = 40  # up to here a confusion matrix has names, and percentages in its cells


def training_curves(epochs: Sequence[dict], score: str | None = "acc1", chance: float | None = None) -> Figure:
    """Draw the four training panels in one figure."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, draw in zip(figure.subplots(2, 2).flat, training_panels(epochs, score, chance), strict=True):
        draw(axes)
    return figure


def panel(draw: Callable[[Axes], None]) -> Figure:
    """Draw a panel as a separate figure."""
    figure = Figure(figsize=(4.6, 2.7), layout="constrained")
    draw(figure.subplots())
    return figure


def training_panels(
    epochs: Sequence[dict], score: str | None = "acc1", chance: float | None = None
) -> list[Callable[[Axes], None]]:
    """Return functions that draw loss, score, learning rate and throughput per epoch; non-finite numbers leave a gap.

    Args:
        epochs: Records of log.txt.
        score: Name of the figure that selects the best checkpoint; None leaves its axes empty.
        chance: Score of random guessing, drawn as a dashed line.
    """
    scale = SCORES.get(score, Scale(score or "no score"))

    def loss(axes: Axes) -> None:
        _curves(axes, epochs, {"train_loss": "training", "val_loss": "validation", "val_ema_loss": "validation, EMA"})
        axes.set(ylabel="loss")

    def validation_score(axes: Axes) -> None:
        _curves(axes, epochs, {f"val_{score}": "validation", f"val_ema_{score}": "validation, EMA"})
        axes.set(ylabel=scale.label, ylim=scale.limits)
        if chance is not None:
            axes.axhline(chance, color=GREY, linestyle="--", linewidth=1)
            axes.text(
                0.01, chance, "chance", transform=axes.get_yaxis_transform(), color=GREY, fontsize=8, va="bottom"
            )

    def rate(axes: Axes) -> None:
        _curves(axes, epochs, {"train_lr": ""})
        axes.set(ylabel="learning rate, at the end", xlabel="epoch")

    def throughput(axes: Axes) -> None:
        _curves(axes, epochs, {"train_clips_per_second": ""})
        axes.set(ylabel="training clips / s", xlabel="epoch")
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)

    return [loss, validation_score, rate, throughput]


def confusion_matrix(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw the matrix (classes, classes), true class by row, in percent of the row; with numbers where they fit."""
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    classes = len(counts)
    few = classes <= NAMED_CLASSES
    side = 1.9 + (0.6 if classes <= COUNTED_CLASSES else 0.45) * classes if few else 10
    figure = Figure(figsize=(side + 0.9, side), layout="constrained")
    axes = figure.subplots()
    # Among many classes, single mistakes are a few percent of a row; a non-linear scale makes them visible.
    scale = PowerNorm(1 if few else 0.4, 0, 100)
    picture = axes.imshow(shares, cmap=SHARES, norm=scale, interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="% of the true class", shrink=0.7, aspect=25)
    axes.set(xlabel="predicted", ylabel="true")
    if not few:
        return figure
    axes.set_xticks(range(classes), [_short(name) for name in names], rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(classes), [_short(name) for name in names], parse_math=False)
    for row, column in zip(*np.nonzero(counts), strict=True):
        percent = f"{shares[row, column]:.0f}"
        text = f"{percent} %\n{counts[row, column]}" if classes <= COUNTED_CLASSES else percent
        colour = "white" if shares[row, column] > 50 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    return figure


def reliability_diagram(calibration: dict) -> Figure:
    """Draw accuracy against confidence, and the number of videos, per bin."""
    bins = calibration["bins"]
    places = [(entry["from"] + entry["to"]) / 2 for entry in bins]
    width = bins[0]["to"] - bins[0]["from"]
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    accuracy, videos = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    accuracy.bar(places, [entry["accuracy"] or 0 for entry in bins], 0.9 * width, color=BLUE, label="accuracy")
    filled = [entry for entry in bins if entry["videos"]]
    confidences = [entry["confidence"] for entry in filled]
    accuracy.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="accuracy = confidence")
    accuracy.scatter(confidences, confidences, color=ORANGE, zorder=3, s=14, label="mean confidence")
    accuracy.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    figure.legend(fontsize=8, framealpha=0, loc="outside upper center", ncols=3, columnspacing=1, handlelength=1.2)
    videos.bar(places, [entry["videos"] for entry in bins], 0.9 * width, color=GREY)
    videos.set(xlabel="confidence", ylabel="videos")
    return figure


def _curves(axes: Axes, epochs: Sequence[dict], labels: dict[str, str]) -> None:
    """Draw those numbers of log.txt that exist, with their labels."""
    numbers = [record["epoch"] + 1 for record in epochs]
    for (key, label), colour in zip(labels.items(), SERIES, strict=False):
        values = [record.get(key) for record in epochs]
        if any(value is not None for value in values):
            values = [np.nan if value is None else value for value in values]
            marker = "o" if len(epochs) < 30 else None
            axes.plot(numbers, values, color=colour, label=label, marker=marker, markersize=3)
    if len(axes.lines) > 1:
        axes.legend(fontsize=8, framealpha=0)
    if axes.lines:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color=GREY, alpha=0.3)


def _short(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
