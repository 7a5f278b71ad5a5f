"""Annotated copies of videos: each frame with its prediction and heat map, above the curve of probabilities."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from datasets.readers import FrameReader
from inference.defaults import UNSURE
from inference.drawing import FONT_FILE, Bars, Strip, caption, class_colours, draw_strip
from inference.heatmaps import draw_heat_scale
from inference.predictor import certainty
from inference.timeline import Timeline
from inference.video_writer import canvas_size, every_frame, write_h264

STRIP_HEIGHT = 160
FRAME_RATE = 25  # of frame folders and of files that do not specify it


def annotate_video(
    reader: FrameReader,
    timeline: Timeline,
    target: Path,
    *,
    bars: Bars | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> int:
    """Write an annotated H.264 copy of a video, with as many frames.

    Args:
        reader: reader of the video.
        timeline: from `follow` for this video; heat maps are drawn if it has any.
        target: the .mp4 file; it appears when it is complete.
        bars: segments to draw above the curve.
        progress: wraps the iteration over the frames, for a progress bar.

    Returns:
        the number of frames.

    Raises:
        UnreadableVideoError: frames cannot be decoded.
    """
    width, height = canvas_size(reader.read([0]).shape[1:3])
    strip = draw_strip(timeline.curve, width, STRIP_HEIGHT, dark=True, bars=bars)
    painter = _Painter(timeline, strip, (width, height))
    pictures = (painter.paint(frame, number) for number, frame in enumerate(progress(every_frame(reader))))
    write_h264(target, pictures, (width, height + STRIP_HEIGHT), timeline.curve.rate or FRAME_RATE)
    return len(reader)


class _Painter:
    """Paints frames onto a common background."""

    def __init__(self, timeline: Timeline, strip: Strip, size: tuple[int, int]):
        """Prepare what all frames have in common; `size` is width and height of the video within the picture."""
        self.curve, self.heat = timeline
        self.strip, self.size = strip, size
        self.colours = class_colours(self.curve)
        self.background = Image.new("RGB", (size[0], size[1] + STRIP_HEIGHT))
        self.background.paste(Image.fromarray(strip.picture), (0, size[1]))
        self.font = ImageFont.truetype(FONT_FILE, size=max(14, size[0] // 40))
        self.small = ImageFont.truetype(FONT_FILE, size=max(10, size[0] // 64))

    def paint(self, frame: np.ndarray, number: int) -> np.ndarray:
        """Annotate frame `number`, uint8 (H, W, 3): uint8 (height + STRIP_HEIGHT, width, 3)."""
        canvas = self.background.copy()
        picture = np.asarray(Image.fromarray(frame).resize(self.size, Image.Resampling.BICUBIC))
        probabilities = self.curve.at(np.array([number]))[0]
        best = int(probabilities.argmax())
        if self.heat:
            picture = self.heat.overlay(picture, number, certainty(probabilities[best], len(probabilities)))
        canvas.paste(Image.fromarray(picture))
        self._write(canvas, best, probabilities[best])
        self._point(ImageDraw.Draw(canvas), number, probabilities)
        return np.asarray(canvas)

    def _write(self, canvas: Image.Image, best: int, probability: float) -> None:
        """Write the prediction, grey if it is unsure, and the colour bar of the heat map."""
        pen = ImageDraw.Draw(canvas, "RGBA")
        text = caption(self.curve.label_names[best], probability)
        left, top, right, bottom = pen.textbbox((10, 8), text, font=self.font)
        pen.rectangle((left - 6, top - 4, right + 6, bottom + 4), fill=(0, 0, 0, 160))
        pen.text((10, 8), text, font=self.font, fill="#b8bec5" if probability < UNSURE else "white")
        if self.heat:
            corner = (10, self.size[1] - self.small.size - 12)
            pen.rectangle((4, corner[1] - 5, 10 + 22 * self.small.size, self.size[1] - 4), fill=(0, 0, 0, 160))
            draw_heat_scale(canvas, corner, self.heat.scale, self.small, "white")

    def _point(self, pen: ImageDraw.ImageDraw, number: int, probabilities: np.ndarray) -> None:
        strip, offset = self.strip, self.size[1]
        x, top, bottom = strip.cursor(number), strip.top + offset, strip.bottom + offset
        pen.line((x, top, x, bottom), fill="#d0d5da", width=2)
        for label, colour in self.colours.items():
            y = offset + strip.row(probabilities[label])
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
