"""An annotated copy of a video: on every frame the prediction, its confidence and the heat map, the curve below."""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.files import atomic_write
from datasets.readers import FrameReader, VideoFile
from inference.drawing import FONT_FILE, Strip, class_colours, draw_strip, short_name
from inference.timeline import Timeline

NARROWEST, WIDEST = 480, 1280  # pixels; what is smaller or larger is resized, so that text and curve can be read
STRIP_HEIGHT = 160
FRAMES_PER_READ = 32
FRAME_RATE = 25  # of folders of frames, and of files that do not say


def annotate_video(
    reader: FrameReader,
    timeline: Timeline,
    target: Path,
    *,
    rate: Fraction = Fraction(FRAME_RATE),
    progress: Callable[[Iterable], Iterable] = iter,
) -> int:
    """Write an annotated H.264 copy of a video, with as many frames.

    Args:
        reader: of the video. timeline: as `follow` gives for it, its heat maps are drawn where there are any.
        target: the .mp4 file, which appears when it is whole.
        rate: frames a second. progress: wraps the frames, for a progress bar.

    Returns:
        the number of frames.

    Raises:
        UnreadableVideoError: frames do not decode.
    """
    width, height = _canvas(reader.read([0]).shape[1:3])
    strip = draw_strip(timeline.curve, width, STRIP_HEIGHT)
    painter = _Painter(timeline, strip, (width, height))
    # Written through an open file: only a whole one takes the target's name.
    with atomic_write(target) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = width, height + STRIP_HEIGHT
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast"}
        for number, frame in enumerate(progress(_frames(reader))):
            picture = painter.paint(frame, number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return len(reader)


def frame_rate(path: str) -> Fraction:
    """Frames a second of a video file; `FRAME_RATE` for a folder, and for a file that does not say.

    Raises:
        UnreadableVideoError: the file does not open.
    """
    if Path(path).is_dir():
        return Fraction(FRAME_RATE)
    return VideoFile(path).rate or Fraction(FRAME_RATE)


def _canvas(shape: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the video's part of the picture, even as H.264 wants them."""
    height, width = shape
    scale = min(max(width, NARROWEST), WIDEST) / width
    return 2 * round(width * scale / 2), max(2, 2 * round(height * scale / 2))


def _frames(reader: FrameReader) -> Iterator[np.ndarray]:
    """All frames in order, each uint8 (H, W, 3)."""
    for start in range(0, len(reader), FRAMES_PER_READ):
        yield from reader.read(range(start, min(start + FRAMES_PER_READ, len(reader))))


class _Painter:
    """Paints one frame after another onto the same background."""

    def __init__(self, timeline: Timeline, strip: Strip, size: tuple[int, int]):
        """Prepare what all frames share; `size` is width and height of the video's part."""
        self.curve, self.heat = timeline
        self.strip, self.size = strip, size
        self.colours = class_colours(self.curve)
        self.font = ImageFont.truetype(FONT_FILE, size=max(14, size[0] // 40))

    def paint(self, frame: np.ndarray, number: int) -> np.ndarray:
        """Frame `number`, uint8 (H, W, 3), annotated: uint8 (height + STRIP_HEIGHT, width, 3)."""
        width, height = self.size
        canvas = Image.new("RGB", (width, height + STRIP_HEIGHT))
        picture = np.asarray(Image.fromarray(frame).resize(self.size, Image.Resampling.BICUBIC))
        canvas.paste(Image.fromarray(self.heat.overlay(picture, number) if self.heat else picture))
        canvas.paste(Image.fromarray(self.strip.picture), (0, height))
        probabilities = self.curve.at(np.array([number]))[0]
        best = int(probabilities.argmax())
        self._write(ImageDraw.Draw(canvas, "RGBA"), best, probabilities[best])
        self._point(ImageDraw.Draw(canvas), number, probabilities)
        return np.asarray(canvas)

    def _write(self, pen: ImageDraw.ImageDraw, best: int, probability: float) -> None:
        text = f"{short_name(self.curve.label_names[best])}  {100 * probability:.1f} %"
        left, top, right, bottom = pen.textbbox((10, 8), text, font=self.font)
        pen.rectangle((left - 6, top - 4, right + 6, bottom + 4), fill=(0, 0, 0, 160))
        pen.text((10, 8), text, font=self.font, fill=(255, 255, 255))

    def _point(self, pen: ImageDraw.ImageDraw, number: int, probabilities: np.ndarray) -> None:
        strip, offset = self.strip, self.size[1]
        x, top, bottom = strip.cursor(number), strip.top + offset, strip.bottom + offset
        pen.line((x, top, x, bottom), fill=(60, 60, 60), width=2)
        for label, colour in self.colours.items():
            y = bottom - (bottom - top) * probabilities[label] / 1.02
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
