"""The curve of class probabilities over time, as a figure or as the strip below a video."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib import font_manager, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageFont

from common.files import atomic_write
from common.palette import GREY, SERIES
from common.terminal import printable
from datasets.labelled_segments import LabelledSegment
from inference.defaults import UNSURE
from inference.windows import Curve

# Included in matplotlib, so it is available on every machine.
FONT_FILE = font_manager.findfont("DejaVu Sans")
DPI = 100
LONGEST_NAME = 24
LABEL_SIZE = 8  # points
POINTS = 400  # of a line, in addition to the centres of the windows
BAR_HEIGHT = 16  # pixels of a row of segments

Bars = Mapping[str, Sequence[LabelledSegment]]
"""Rows of segments above a curve, by their names."""


def class_colours(curve: Curve) -> dict[int, str]:
    """Return label -> colour for the classes that are drawn: those with the highest peaks, highest first."""
    return dict(zip(curve.leading(len(SERIES)), SERIES, strict=False))


def short_name(name: str, longest: int = LONGEST_NAME) -> str:
    """Shorten a name and escape what cannot be printed."""
    name = printable(name)
    return name if len(name) <= longest else name[: longest - 1] + "…"


def caption(name: str, probability: float) -> str:
    """Format a prediction; below `UNSURE` it has a question mark."""
    return f"{short_name(name)}{'?' if probability < UNSURE else ''} {100 * probability:.0f} %"


@dataclass(frozen=True)
class Strip:
    """A drawn curve and the position of its axes, in pixels.

    Attributes:
        figure: the figure.
        left: column of the first frame.
        right: column of the last frame.
        top: row of the upper end of the axes.
        bottom: row of probability 0.
        highest: probability at `top`.
        total_frames: number of frames.
    """

    figure: Figure
    left: float
    right: float
    top: float
    bottom: float
    highest: float
    total_frames: int

    @cached_property
    def picture(self) -> np.ndarray:
        """The rendered figure, uint8 (height, width, 3)."""
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def cursor(self, frame: int) -> int:
        """Return the column of a frame."""
        return round(self.left + (self.right - self.left) * frame / max(1, self.total_frames - 1))

    def row(self, probability: float) -> float:
        """Return the row of a probability."""
        return self.bottom - (self.bottom - self.top) * probability / self.highest


def draw_strip(
    curve: Curve, width: int, height: int, *, title: str = "", dark: bool = False, bars: Bars | None = None
) -> Strip:
    """Draw a curve, `width` x `height` pixels; the time axis runs from the first frame to the last.

    Time is in seconds, or in frames if the rate is unknown. The probability axis ends above the highest value. Lines
    are thin and pale below `UNSURE`. Names stand at the right ends of the lines. Segments, such as found and true
    ones, are rows of bars above the curve in the colours of its lines; classes without a line are grey.
    """
    bars = bars or {}
    names = {label: short_name(curve.label_names[label], LONGEST_NAME if width > 600 else 14)
             for label in class_colours(curve)}  # fmt: skip
    font = ImageFont.truetype(FONT_FILE, size=LABEL_SIZE * DPI / 72)
    label_width = 18 + max(font.getlength(name) for name in names.values())
    band = BAR_HEIGHT * len(bars) / height
    left, right, bottom, top = 46 / width, 1 - label_width / width, 36 / height, 1 - (26 if title else 10) / height
    top -= band
    with style.context("dark_background" if dark else "default"):
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        axes = figure.add_axes((left, bottom, right - left, top - bottom))
        highest = _draw_lines(axes, curve)
        _draw_labels(axes, curve, names)
        if bars:
            _draw_bars(figure.add_axes((left, top, right - left, band)), curve, bars)
    axes.set_xlabel("seconds" if curve.rate else "frame", fontsize=8, labelpad=1)
    axes.set_ylabel("%", fontsize=8, labelpad=1)
    axes.set_title(printable(title), fontsize=9, pad=6 + 72 / DPI * BAR_HEIGHT * len(bars))
    axes.title.set_parse_math(False)
    axes.tick_params(labelsize=7)
    axes.grid(color=GREY, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    edges = left * width, right * width, (1 - top) * height, (1 - bottom) * height
    return Strip(figure, *edges, highest, curve.total_frames)


def _draw_lines(axes: Axes, curve: Curve) -> float:
    """Draw one line per class, and return the probability at the top of the axes."""
    # Like `Curve.at`, constant before the first centre and after the last, so the lines span the video.
    frames = np.unique(np.concatenate([np.linspace(0, curve.total_frames - 1, POINTS), curve.centres]))
    values = curve.at(frames)
    for label, colour in class_colours(curve).items():
        of_class = 100 * values[:, label]
        axes.plot(curve.seconds(frames), of_class, color=colour, linewidth=1.1, alpha=0.6)
        axes.plot(
            curve.seconds(frames), np.where(of_class >= 100 * UNSURE, of_class, np.nan), color=colour, linewidth=2.4
        )
    highest = min(1.02, np.ceil(11.5 * values.max()) / 10)
    axes.set(xlim=(0, curve.seconds(max(1, curve.total_frames - 1))), ylim=(0, 100 * highest))
    if highest > UNSURE:
        axes.axhline(100 * UNSURE, color=GREY, linewidth=0.8, linestyle=":")
        axes.text(
            0.005, 100 * UNSURE, "unsure below", transform=axes.get_yaxis_transform(), color=GREY, fontsize=7, va="top"
        )
    return float(highest)


def _draw_labels(axes: Axes, curve: Curve, names: dict[int, str]) -> None:
    """Write the names at the ends of the lines, moved apart where they would overlap."""
    pixels = axes.get_window_extent()
    ends = dict(zip(names, 100 * curve.at(np.array([curve.total_frames - 1]))[0, list(names)], strict=True))
    gap = axes.get_ylim()[1] * LABEL_SIZE * 1.3 * DPI / 72 / pixels.height
    rows = spread_apart(np.array(list(ends.values())), gap, axes.get_ylim()[1])
    for (label, name), row in zip(names.items(), rows, strict=True):
        axes.plot(
            [1, 1 + 11 / pixels.width], [ends[label], row], color=class_colours(curve)[label],
            transform=axes.get_yaxis_transform(), clip_on=False,
        )  # fmt: skip
        axes.text(
            1 + 14 / pixels.width, row, name, va="center", fontsize=LABEL_SIZE, parse_math=False,
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip


def _draw_bars(axes: Axes, curve: Curve, bars: Bars) -> None:
    """Draw rows of segments over the time axis of a curve, with the names of the classes that fit."""
    colours, font = class_colours(curve), ImageFont.truetype(FONT_FILE, size=LABEL_SIZE * DPI / 72)
    longest = curve.seconds(max(1, curve.total_frames - 1))
    axes.set(xlim=(0, longest), ylim=(len(bars), 0))
    axes.axis("off")
    pixels = axes.get_window_extent().width / longest
    for row, (title, segments) in enumerate(bars.items()):
        axes.text(-6 / pixels, row + 0.5, title, fontsize=7, ha="right", va="center", parse_math=False)
        for segment in segments:
            start, end = min(segment.start, longest), min(segment.end, longest)
            axes.broken_barh(
                [(start, end - start)], (row + 0.1, 0.8), facecolor=colours.get(segment.label, GREY), edgecolor="white"
            )
            name = short_name(curve.label_names[segment.label])
            if font.getlength(name) < (end - start) * pixels:
                axes.text(
                    (start + end) / 2, row + 0.5, name, fontsize=7, ha="center", va="center", color="white",
                    parse_math=False,
                )  # fmt: skip


def spread_apart(places: np.ndarray, gap: float, highest: float) -> np.ndarray:
    """Move positions (n,) to be at least `gap` apart, in the same order and not above `highest`."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = np.maximum.accumulate(places[order] - steps) + steps
    ceiling = highest - gap * np.arange(len(places))[::-1]
    spread = np.empty(len(places))
    spread[order] = np.minimum(moved, ceiling)
    return spread


def write_curve(curve: Curve, path: Path, *, title: str = "", bars: Bars | None = None) -> None:
    """Write a curve as a PNG file; see `draw_strip`."""
    write_png(draw_strip(curve, 960, 360, title=title, bars=bars).picture, path)


def write_png(picture: np.ndarray, path: Path) -> None:
    """Write a picture uint8 (height, width, 3) as a PNG file."""
    with atomic_write(path) as file:
        Image.fromarray(picture).save(file, format="PNG")
