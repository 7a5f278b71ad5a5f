"""Boxes with names on pictures: which pixels they colour."""

import numpy as np
import pytest
from PIL import Image

from inference.box_drawing import LabelledBox, draw_boxes
from reports.detection import FALSE, HIT, TRUTH, key_frame_picture

SIZE = (320, 200)  # width and height


def drawn(*boxes):
    picture = Image.new("RGB", SIZE)
    draw_boxes(picture, boxes)
    return np.asarray(picture)


def test_the_frame_is_inside_the_box():
    pixels = drawn(LabelledBox((0.25, 0.5, 0.75, 0.9), (), "#ff0000"))
    rows, columns = np.nonzero(pixels[..., 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (100, 179, 80, 239)
    assert not pixels[102:178, 82:238].any() and not pixels[..., 1:].any()


@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (-0.2, -0.1, 1.3, 0.5), (0.999, 0.999, 1.0, 1.0)])
def test_a_box_at_or_over_the_border_is_drawn_along_it(box):
    pixels = drawn(LabelledBox(box, (), "#ff0000"))[..., 0]
    left, top, right, bottom = np.clip(np.rint(np.array(box) * (*SIZE, *SIZE)).astype(int), 0, (*SIZE, *SIZE))
    assert pixels[min(top, SIZE[1] - 1), min(left, SIZE[0] - 1)] == pixels[bottom - 1, right - 1] == 255


def ink(pixels):
    """Where something white is written: first and last row, first and last column."""
    rows, columns = np.nonzero(pixels.min(-1) > 120)
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_names_stand_above_the_box_and_in_it_where_there_is_no_room_and_never_outside():
    names = ["stand 0.98", "talk to (a person) 0.55"]
    top, bottom, left, _ = ink(drawn(LabelledBox((0.25, 0.5, 0.75, 0.9), names, "#ff0000")))
    assert top > 50 and bottom < 100 and 80 <= left < 90
    top, bottom, _, _ = ink(drawn(LabelledBox((0.25, 0.05, 0.75, 0.9), names, "#ff0000")))
    assert top >= 10 and bottom < 60
    _, _, _, right = ink(drawn(LabelledBox((0.9, 0.5, 1.0, 0.9), names, "#ff0000")))
    assert right < SIZE[0] - 2


def test_a_key_frame_has_the_truth_in_white_and_detections_by_whether_they_are_hits():
    frame = np.zeros((240, 320, 3), np.uint8)
    boxes = {TRUTH: (0.1, 0.1, 0.3, 0.3), HIT: (0.4, 0.4, 0.6, 0.6), FALSE: (0.7, 0.7, 0.9, 0.9)}
    picture = np.asarray(key_frame_picture(frame, [LabelledBox(box, (), colour) for colour, box in boxes.items()]))
    for colour, (x1, y1, _, _) in boxes.items():
        expected = tuple(bytes.fromhex(colour[1:]))
        assert tuple(picture[round(y1 * 240), round(x1 * 320) + 5]) == expected
