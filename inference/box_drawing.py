"""Boxes with their names, drawn onto pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from inference.drawing import FONT_FILE, short_name

LINE_SPACING = 1.25  # of the letters' height
PADDING = 3  # pixels around the text


@dataclass(frozen=True)
class NamedBox:
    """A box and what is written at it.

    Attributes:
        box: x1, y1, x2, y2 in shares of the picture.
        lines: of text; names are cut off where they are long.
        colour: of the frame, as Pillow names colours.
    """

    box: Sequence[float]
    lines: Sequence[str]
    colour: str


def draw_boxes(picture: Image.Image, boxes: Sequence[NamedBox]) -> None:
    """Draw boxes onto a picture, their text above them, or inside where there is no room above.

    All frames are drawn before the text, so that no frame crosses it.
    """
    pen = ImageDraw.Draw(picture, "RGBA")
    font = ImageFont.truetype(FONT_FILE, size=max(11, picture.width // 56))
    thickness = max(2, picture.width // 320)
    for named in boxes:
        pen.rectangle(_pixels(named, picture.size), outline=named.colour, width=thickness)
    for named in boxes:
        _write(pen, named, picture.size, font)


def _pixels(named: NamedBox, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The corners of a box in whole pixels inside the picture."""
    width, height = size
    x1, y1, x2, y2 = named.box
    left, top = (min(max(0, round(share * side)), side - 1) for share, side in ((x1, width), (y1, height)))
    right, bottom = round(x2 * width) - 1, round(y2 * height) - 1
    return left, top, min(max(right, left), width - 1), min(max(bottom, top), height - 1)


def _write(pen: ImageDraw.ImageDraw, named: NamedBox, size: tuple[int, int], font: ImageFont.FreeTypeFont) -> None:
    if not named.lines:
        return
    lines = [short_name(line) for line in named.lines]
    step = round(LINE_SPACING * font.size)
    width = round(max(font.getlength(line) for line in lines)) + 2 * PADDING
    height = step * len(lines) + 2 * PADDING
    left, top, _, _ = _pixels(named, size)
    left = max(0, min(left, size[0] - width))
    top = top - height if top >= height else max(0, min(top, size[1] - height))
    pen.rectangle((left, top, left + width, top + height), fill=(0, 0, 0, 160))
    for place, line in enumerate(lines):
        pen.text((left + PADDING, top + PADDING + place * step), line, font=font, fill="white")
