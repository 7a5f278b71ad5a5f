"""Draw labelled boxes onto pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from inference.drawing import FONT_FILE, short_name

LINE_SPACING = 1.25  # of the letters' height
PADDING = 3  # pixels around the text


@dataclass(frozen=True)
class LabelledBox:
    """A box with its label.

    Attributes:
        box: x1, y1, x2, y2 as fractions of the picture.
        lines: Lines of the label; long lines are cut off.
        colour: Colour of the outline, in a form that Pillow knows.
    """

    box: Sequence[float]
    lines: Sequence[str]
    colour: str


def draw_boxes(picture: Image.Image, boxes: Sequence[LabelledBox]) -> None:
    """Draw boxes onto a picture, with the label above the box, or inside if there is no room above.

    All outlines are drawn first, so that none crosses a label.
    """
    pen = ImageDraw.Draw(picture, "RGBA")
    font = ImageFont.truetype(FONT_FILE, size=max(11, picture.width // 56))
    thickness = max(2, picture.width // 320)
    for labelled in boxes:
        pen.rectangle(_pixels(labelled, picture.size), outline=labelled.colour, width=thickness)
    for labelled in boxes:
        _write(pen, labelled, picture.size, font)


def _pixels(labelled: LabelledBox, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the corners of a box in whole pixels, clipped to the picture."""
    width, height = size
    x1, y1, x2, y2 = labelled.box
    left, top = (min(max(0, round(fraction * side)), side - 1) for fraction, side in ((x1, width), (y1, height)))
    right, bottom = round(x2 * width) - 1, round(y2 * height) - 1
    return left, top, min(max(right, left), width - 1), min(max(bottom, top), height - 1)


def _write(
    pen: ImageDraw.ImageDraw, labelled: LabelledBox, size: tuple[int, int], font: ImageFont.FreeTypeFont
) -> None:
    if not labelled.lines:
        return
    lines = [short_name(line) for line in labelled.lines]
    step = round(LINE_SPACING * font.size)
    width = round(max(font.getlength(line) for line in lines)) + 2 * PADDING
    height = step * len(lines) + 2 * PADDING
    left, top, _, _ = _pixels(labelled, size)
    left = max(0, min(left, size[0] - width))
    top = top - height if top >= height else max(0, min(top, size[1] - height))
    pen.rectangle((left, top, left + width, top + height), fill=(0, 0, 0, 160))
    for place, line in enumerate(lines):
        pen.text((left + PADDING, top + PADDING + place * step), line, font=font, fill="white")
