"""Pictures of predictions: the curve of probabilities, as a figure of its own or as the strip under a video."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from common.files import atomic_write
from common.terminal import printable
from inference.windows import Curve

# matplotlib brings this font along, so it is there on every machine.
FONT_FILE = font_manager.findfont("DejaVu Sans")
DPI = 100
MOST_DRAWN = 5
LONGEST_NAME = 24
LEGEND_WIDTH = 160  # pixels
COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189))


def class_colours(curve: Curve) -> dict[int, tuple[int, int, int]]:
    """Which classes are drawn, and the RGB colour of each: those of the highest peaks, the highest first."""
    return dict(zip(curve.leading(MOST_DRAWN), COLOURS, strict=False))


def short_name(name: str) -> str:
    """A name that fits into a picture, in letters that can be drawn."""
    name = printable(name)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


@dataclass(frozen=True)
class Strip:
    """A picture of a curve and where its time axis lies in it.

    Attributes:
        picture: uint8 (height, width, 3). left, right: pixels of the first and the last frame. top, bottom: pixels of
            the axes' borders. total_frames: N.
    """

    picture: np.ndarray
    left: float
    right: float
    top: float
    bottom: float
    total_frames: int

    def cursor(self, frame: int) -> int:
        """The column of a frame, in pixels."""
        return round(self.left + (self.right - self.left) * frame / max(1, self.total_frames - 1))


def draw_strip(curve: Curve, width: int, height: int, *, title: str = "") -> Strip:
    """Draw a curve, `width` x `height` pixels; its time axis runs from the first frame to the last."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    left, right, bottom, top = 46 / width, 1 - LEGEND_WIDTH / width, 34 / height, 1 - (26 if title else 8) / height
    axes = figure.add_axes((left, bottom, right - left, top - bottom))
    # Level outside of the centres, as `Curve.at` is: the line spans the video.
    frames = np.unique(np.concatenate([[0], curve.centres, [curve.total_frames - 1]]))
    values = curve.at(frames)
    marker = "o" if len(curve.starts) == 1 else None
    for label, colour in class_colours(curve).items():
        name = short_name(curve.label_names[label])
        axes.plot(frames, values[:, label], color=np.array(colour) / 255, label=name, marker=marker)
    axes.set(xlim=(0, max(1, curve.total_frames - 1)), ylim=(0, 1.02))
    axes.set_xlabel("frame", fontsize=8, labelpad=1)
    axes.set_title(printable(title), fontsize=9)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=7, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    axes.title.set_parse_math(False)
    canvas.draw()
    picture = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return Strip(picture, left * width, right * width, (1 - top) * height, (1 - bottom) * height, curve.total_frames)


def write_curve(curve: Curve, path: Path, *, title: str = "") -> None:
    """Write the picture of a curve as a PNG file."""
    write_png(draw_strip(curve, 960, 360, title=title).picture, path)


def write_png(picture: np.ndarray, path: Path) -> None:
    """Write a picture uint8 (height, width, 3) as a PNG file."""
    with atomic_write(path) as file:
        Image.fromarray(picture).save(file, format="PNG")
