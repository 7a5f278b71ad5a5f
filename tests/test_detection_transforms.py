"""Boxes and pictures together: what is painted in a box before is in the box after."""

import numpy as np
import pytest
from detection_files import painted

from datasets.detection import boxes as box
from datasets.detection.transforms import RandomView, WholePicture
from datasets.sampling import keyframe_indices


def coloured(shape, boxes):
    """Three boxes at most, each in a channel of its own: (2, height, width, 3)."""
    frames = [painted(shape, boxes[i : i + 1], 2)[..., 0] for i in range(len(boxes))]
    empty = np.zeros((2, *shape), np.uint8)
    return np.stack([*frames, *[empty] * (3 - len(frames))], axis=-1)


def seen_box(channel):
    """Bounding box of the bright pixels of (height, width); None where there are none."""
    rows, columns = np.nonzero(channel > 127)
    return None if len(rows) == 0 else (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def random_boxes(rng, shape, count):
    """Boxes on whole pixels, as shares of the picture."""
    height, width = shape
    corners = rng.uniform(0, 0.9, size=(count, 2))
    ends = np.minimum(corners + rng.uniform(0.05, 0.5, size=(count, 2)), 1)
    pixels = np.rint(np.concatenate([corners, ends], axis=1) * (width, height, width, height))
    return pixels / (width, height, width, height)


@pytest.mark.parametrize("shape", [(120, 200), (200, 120), (90, 90)])
@pytest.mark.parametrize("hflip", [0.0, 1.0])
@pytest.mark.parametrize("short_side", [(64, 64), (90, 110)])
def test_what_is_painted_in_a_box_is_in_it_after_resize_crop_and_flip(shape, hflip, short_side):
    rng = np.random.default_rng(0)
    view = RandomView(64, short_side, hflip, jitter=0)
    dropped = 0
    for _ in range(25):
        boxes = random_boxes(rng, shape, 3)
        clip, moved, kept, _ = view(coloured(shape, boxes), boxes, rng)
        assert clip.shape == (2, 3, 64, 64) and len(kept) > 0
        assert moved.min() >= 0 and moved.max() <= 64
        for i in range(3):
            seen = seen_box(clip[1, i].numpy())
            if i in kept:
                (place,) = moved[kept == i]
                if (box.sides(place[None]) >= 3).all():
                    np.testing.assert_allclose(seen, place, atol=1.01)
            else:
                dropped += 1
                # nothing but the blur of an edge
                assert seen is None or min(seen[2] - seen[0], seen[3] - seen[1]) <= 1
    assert dropped > 0 or shape == (90, 90)


@pytest.mark.parametrize("shape", [(120, 200), (250, 130), (97, 97)])
def test_a_whole_picture_keeps_every_box_and_its_sides_are_multiples_of_the_patch(shape):
    rng = np.random.default_rng(1)
    for _ in range(10):
        boxes = random_boxes(rng, shape, 3)
        clip, moved, kept, redrawn = WholePicture(64, 16, jitter=0)(coloured(shape, boxes), boxes, rng)
        assert min(clip.shape[2:]) == 64 and clip.shape[2] % 16 == clip.shape[3] % 16 == 0
        assert abs(clip.shape[3] / clip.shape[2] - shape[1] / shape[0]) < 8 / 64
        assert kept.tolist() == [0, 1, 2] and not redrawn
        for i in range(3):
            np.testing.assert_allclose(seen_box(clip[0, i].numpy()), moved[i], atol=1.01)


def test_a_box_is_enlarged_in_evaluation_as_training_jitters_it_on_average():
    boxes = np.array([[0.4, 0.4, 0.6, 0.8]])
    frames = painted((64, 64), boxes, 1)
    _, moved, _, _ = WholePicture(64, 16, jitter=1)(frames, boxes, np.random.default_rng(0))
    # a tenth of the width in all, a twentieth of the height
    np.testing.assert_allclose(moved / 64, [[0.39, 0.39, 0.61, 0.81]])
    rng = np.random.default_rng(0)
    jittered = np.concatenate([box.jitter(boxes, rng) for _ in range(4000)])
    np.testing.assert_allclose(jittered.mean(0) * 64, moved[0], atol=0.1)
    low, high = jittered.min(0), jittered.max(0)
    assert (low >= [0.36, 0.36, 0.58, 0.78]).all() and (high <= [0.42, 0.42, 0.64, 0.84]).all()


def test_boxes_that_reach_the_border_stay_in_the_picture():
    boxes = np.array([[0.0, 0.0, 1.0, 1.0], [0.95, 0.95, 1.0, 1.0]])
    rng = np.random.default_rng(0)
    for moved in [box.enlarge(boxes), *(box.jitter(boxes, rng) for _ in range(50))]:
        assert moved.min() >= 0 and moved.max() <= 1 and (box.sides(moved) > 0).all()


def test_a_crop_without_boxes_is_drawn_again_around_one():
    view = RandomView(32, (64, 64), 0.5, jitter=0)
    boxes = np.array([[0.0, 0.0, 0.05, 0.05], [0.97, 0.9, 0.98, 0.91]])
    frames = coloured((64, 128), boxes)
    rng = np.random.default_rng(0)
    views = [view(frames, boxes, rng) for _ in range(100)]
    assert 0 < sum(t.redrawn for t in views) < 100
    assert {i for t in views for i in t.kept.tolist()} == {0, 1}
    assert all(len(t.kept) >= 1 for t in views)


def test_the_short_side_is_drawn_from_the_whole_range():
    view = RandomView(32, (48, 64), 0.0, jitter=0)
    boxes = np.array([[0.0, 0.0, 1.0, 1.0]])
    rng = np.random.default_rng(0)
    lines = np.zeros((1, 64, 64, 3), np.uint8)
    lines[:, :, 8:24] = 255  # a stripe of a quarter of the width
    widths = {int((view(lines, boxes, rng).clip[0, 0, 0] > 127).sum()) for _ in range(100)}
    assert {12, 13, 14, 15, 16} <= widths and max(widths) == 16  # a crop may cut the stripe off


def test_overlaps_against_counted_pixels():
    rng = np.random.default_rng(0)
    boxes = np.rint(random_boxes(rng, (40, 40), 6) * 40)
    masks = [painted((40, 40), one[None] / 40, 1)[0, ..., 0] > 0 for one in boxes]
    counted = [[(a & b).sum() / (a | b).sum() for b in masks] for a in masks]
    np.testing.assert_allclose(box.overlaps(boxes, boxes), counted)
    assert box.overlaps(boxes, np.zeros((0, 4))).shape == (6, 0)


@pytest.mark.parametrize(
    ("clip_len", "rate", "first", "last"),
    # SlowFast's frames around a key, relative to it
    [(16, 4, -32, 28), (8, 8, -32, 24), (4, 16, -32, 16), (32, 2, -32, 30)],
)
def test_frames_around_a_key(clip_len, rate, first, last):
    indices = keyframe_indices(1000, 27030, clip_len, rate)
    assert indices.dtype == np.int64 and len(indices) == clip_len
    assert (indices[0], indices[-1]) == (1000 + first, 1000 + last)
    assert set(np.diff(indices)) == {rate} and indices[clip_len // 2] == 1000


def test_frames_beyond_the_ends_are_the_first_and_the_last():
    assert keyframe_indices(2, 100, 8, 2).tolist() == [0, 0, 0, 0, 2, 4, 6, 8]
    assert keyframe_indices(97, 100, 8, 2).tolist() == [89, 91, 93, 95, 97, 99, 99, 99]
    assert keyframe_indices(0, 1, 3, 5).tolist() == [0, 0, 0]
    assert keyframe_indices(5, 10, 5, 1).tolist() == [3, 4, 5, 6, 7]
    assert keyframe_indices(5, 10, 1, 4).tolist() == [5]


@pytest.mark.parametrize("arguments", [(-1, 10, 4, 1), (10, 10, 4, 1), (0, 0, 4, 1), (0, 10, 0, 1), (0, 10, 4, 0)])
def test_keys_that_do_not_exist_are_refused(arguments):
    with pytest.raises(ValueError):
        keyframe_indices(*arguments)
