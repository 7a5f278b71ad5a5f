"""Frames of a video with their heat maps, as single pictures or as one."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.readers import FrameReader
from inference.drawing import FONT_FILE, caption
from inference.heatmaps import draw_heat_scale
from inference.predictor import certainty
from inference.timeline import Timeline

COLUMNS = 8
MAX_FRAMES = 16
CELL_WIDTH = 160
CAPTION = 30
LEGEND = 26
GAP = 4


class Cell(NamedTuple):
    """A frame of a video: its number, a caption, and its picture uint8 (h, w, 3) without and with heat."""

    number: int
    caption: str
    picture: np.ndarray
    heated: np.ndarray


def heat_cells(reader: FrameReader, timeline: Timeline, width: int = CELL_WIDTH) -> Iterator[Cell]:
    """Yield up to `MAX_FRAMES` frames, evenly spaced over the video, `width` pixels wide.

    Args:
        reader: Reader of the video.
        timeline: Result of `follow(..., explain=True)` for this video.

    Raises:
        UnreadableVideoError: Frames cannot be decoded.
    """
    curve, heat = timeline
    count = min(MAX_FRAMES, len(heat.times))
    chosen = np.rint(np.linspace(0, len(heat.times) - 1, count)).astype(int)
    numbers = heat.frames[chosen]
    frames = reader.read(numbers)
    size = (width, max(1, round(width * frames.shape[1] / frames.shape[2])))
    for number, time, frame, row in zip(numbers, heat.times[chosen], frames, curve.at(numbers), strict=True):
        picture = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
        best = int(row.argmax())
        text = f"{curve.when(number)}\n{caption(curve.label_names[best], row[best])}"
        yield Cell(int(number), text, picture, heat.overlay(picture, time, certainty(row[best], len(row))))


def draw_heat_grid(reader: FrameReader, timeline: Timeline) -> np.ndarray:
    """Draw the frames of `heat_cells`, each above the same frame with its heat map, and a colour bar below them.

    Returns:
        uint8 (height, width, 3); the caption of each pair has the time of the frame and the curve's best class there.
    """
    cells = list(heat_cells(reader, timeline))
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    height = cells[0].picture.shape[0]
    step = (CELL_WIDTH + GAP, 2 * height + CAPTION + GAP)
    canvas = Image.new("RGB", (columns * step[0] - GAP, rows * step[1] - GAP + LEGEND), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.truetype(FONT_FILE, size=10)
    for place, cell in enumerate(cells):
        x, y = place % columns * step[0], place // columns * step[1]
        pen.multiline_text((x + 2, y), cell.caption, font=font, fill="black", spacing=2)
        canvas.paste(Image.fromarray(cell.picture), (x, y + CAPTION))
        canvas.paste(Image.fromarray(cell.heated), (x, y + CAPTION + height))
    draw_heat_scale(canvas, (2, canvas.height - LEGEND + 8), timeline.heat.scale, font)
    return np.asarray(canvas)
