"""A picture of frames of a video with their heat maps."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.readers import FrameReader
from inference.drawing import FONT_FILE, short_name
from inference.timeline import Timeline

COLUMNS = 8
MAX_FRAMES = 16
CELL_WIDTH = 160
CAPTION = 30
GAP = 4


def draw_heat_grid(reader: FrameReader, timeline: Timeline) -> np.ndarray:
    """Draw up to `MAX_FRAMES` frames, evenly spaced over the video, each above the same frame with its heat map.

    Args:
        reader: reader of the video.
        timeline: from `follow(..., explain=True)` for this video.

    Returns:
        uint8 (height, width, 3); the caption of each pair has the frame number and the curve's best class there.

    Raises:
        UnreadableVideoError: frames cannot be decoded.
    """
    curve, heat = timeline
    count = min(MAX_FRAMES, len(heat.times))
    chosen = np.rint(np.linspace(0, len(heat.times) - 1, count)).astype(int)
    numbers = heat.frames[chosen]
    frames = reader.read(numbers)
    probabilities = curve.at(numbers)
    height, width = frames.shape[1:3]
    cell = (CELL_WIDTH, max(1, round(CELL_WIDTH * height / width)))
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    step = (CELL_WIDTH + GAP, 2 * cell[1] + CAPTION + GAP)
    canvas = Image.new("RGB", (columns * step[0] - GAP, rows * step[1] - GAP), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.truetype(FONT_FILE, size=10)
    cells = zip(numbers, heat.times[chosen], frames, probabilities, strict=True)
    for place, (number, time, frame, row) in enumerate(cells):
        x, y = place % columns * step[0], place // columns * step[1]
        picture = np.asarray(Image.fromarray(frame).resize(cell, Image.Resampling.BICUBIC))
        best = int(row.argmax())
        caption = f"frame {number}\n{short_name(curve.label_names[best])} {100 * row[best]:.0f} %"
        pen.multiline_text((x + 2, y), caption, font=font, fill="black", spacing=2)
        canvas.paste(Image.fromarray(picture), (x, y + CAPTION))
        canvas.paste(Image.fromarray(heat.overlay(picture, time)), (x, y + CAPTION + cell[1]))
    return np.asarray(canvas)
