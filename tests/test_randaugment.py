"""RandAugment: each operation against timm's on PIL images, settings strings, and frequencies of draws."""

import random
from collections import Counter
from itertools import product

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment as timm_aa

from datasets.randaugment import (
    INCREASING_OPS,
    PLAIN_OPS,
    RandAugment,
    RandAugmentSettings,
    apply_operations,
    draw_operation,
    parse_randaugment,
)
from datasets.warp import AffineMap, Region


class Sign:
    """A generator whose every draw is the same: 0.0 makes signs negative, 0.9 positive."""

    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


@pytest.fixture(scope="module")
def picture():
    """A picture with smooth parts and edges, of a side ratio that tells rows from columns, (60, 90, 3)."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(30, 220, size=(6, 9, 3), dtype=np.uint8))
    array = np.array(small.resize((90, 60), Image.Resampling.BICUBIC))
    array[10:25, 30:60] = (200, 40, 90)
    return array


def by_timm(name, picture, level, sign, monkeypatch):
    """Apply timm's operation, of the same sign."""
    if (name, level) in (("Posterize", 0.0), ("PosterizeIncreasing", 10.0)):
        # no bits are kept: older versions of PIL give black, as the published runs had it, newer ones refuse
        return np.zeros_like(picture, dtype=int)
    monkeypatch.setattr(random, "random", lambda: 0.9 if sign < 0 else 0.1)
    settings = {"interpolation": Image.Resampling.BICUBIC, "img_mean": (128, 128, 128)}
    op = timm_aa.AugmentOp(name, prob=1.0, magnitude=level, hparams=settings)
    return np.asarray(op(Image.fromarray(picture))).astype(int)


@pytest.mark.parametrize("name", sorted(set(INCREASING_OPS + PLAIN_OPS)))
def test_each_operation_gives_the_picture_that_timm_gives(name, picture, monkeypatch):
    for level, sign in product((0.0, 2.5, 7.0, 10.0), (-1, 1)):
        expected = by_timm(name, picture, level, sign, monkeypatch)
        operation = draw_operation(name, level, *picture.shape[:2], Sign(0.0 if sign < 0 else 0.9))
        found = apply_operations(np.stack([picture, picture]), [operation])
        assert found.dtype == np.uint8 and np.array_equal(found[0], found[1]), (level, sign)
        difference = np.abs(found[0].astype(int) - expected)
        if operation.affine is None:
            assert difference.max() == 0, (level, sign)
        else:
            # whole numbers are cut off after sums in another order; PIL has another sum on the border of the picture
            assert np.quantile(difference, 0.999) <= 1 and difference.mean() < 0.02, (level, sign)


def test_the_operations_are_timms():
    assert sorted(INCREASING_OPS) == sorted(timm_aa._RAND_INCREASING_TRANSFORMS)
    assert sorted(PLAIN_OPS) == sorted(timm_aa._RAND_TRANSFORMS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rand-m7-n4-mstd0.5-inc1", RandAugmentSettings(7, 4, 0.5, 0.5, True)),
        ("rand-m5-n2-mstd0.25-inc1", RandAugmentSettings(5, 2, 0.25, 0.5, True)),
        ("rand-m9-mstd0.5-inc1", RandAugmentSettings(9, 2, 0.5, 0.5, True)),
        ("rand-mstd101-p0.3-mmax12", RandAugmentSettings(10, 2, 101, 0.3, False, 12)),
        ("rand", RandAugmentSettings()),
        ("", None),
        ("none", None),
    ],
)
def test_settings_strings(text, expected):
    assert parse_randaugment(text) == expected


@pytest.mark.parametrize("text", ["rand-m7-x4", "rand-m", "augmix-m3", "m7-n4", "rand-m7-n4x"])
def test_settings_that_are_not_understood_are_reported(text):
    with pytest.raises(ValueError, match=f"--aa {text}"):
        parse_randaugment(text)


def test_magnitudes_are_drawn_as_timm_draws_them():
    def levels(text):
        augment, rng = RandAugment(parse_randaugment(text)), np.random.default_rng(0)
        return np.array([augment.draw_level(rng) for _ in range(4000)])

    normal = levels("rand-m7-n4-mstd0.5-inc1")
    assert abs(normal.mean() - 7) < 0.03 and abs(normal.std() - 0.5) < 0.03
    clipped = levels("rand-m9-mstd1-inc1")
    # the share of a normal distribution above one standard deviation
    assert clipped.max() == 10 and abs((clipped == 10).mean() - 0.159) < 0.02
    uniform = levels("rand-m8-mstd101-inc1")
    assert uniform.min() < 0.1 and uniform.max() > 7.9 and abs(uniform.mean() - 4) < 0.1
    assert set(levels("rand-m7-inc1")) == {7.0}


def test_operations_are_drawn_evenly_and_half_of_them_applied():
    augment, rng = RandAugment(parse_randaugment("rand-m7-n4-mstd0.5-inc1")), np.random.default_rng(0)
    applied = Counter(operation.name for _ in range(3000) for operation in augment.draw(8, 9, rng))
    assert set(applied) == set(INCREASING_OPS)
    total = sum(applied.values())
    assert abs(total / 12000 - 0.5) < 0.02
    assert max(abs(n / total - 1 / 15) for n in applied.values()) < 0.012


def test_both_signs_are_drawn():
    rng = np.random.default_rng(0)
    maps = Counter(draw_operation("Rotate", 7.0, 60, 90, rng).affine for _ in range(200))
    assert len(maps) == 2 and min(maps.values()) > 70


def test_what_comes_from_outside_has_the_fill_colour():
    moved = AffineMap((1, 0, 6, 0, 1, 0), "bilinear", (10, 20, 30))
    whole = Region(0, 0, 20, 30)
    found = moved.apply(np.zeros((2, 20, 30, 3), np.uint8), whole, whole, 20, 30)
    assert (found[:, :, :24] == 0).all()
    assert found[1, 5, 24:].tolist() == [[10, 20, 30]] * 6


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_region_of_the_result_is_cut_from_the_whole_result(interpolation):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, size=(3, 40, 50, 3), dtype=np.uint8)
    augment = RandAugment(parse_randaugment("rand-m8-n6-mstd2-p0.8-inc1"), interpolation)
    for _ in range(60):
        operations = augment.draw(40, 50, rng)
        top, left = int(rng.integers(0, 30)), int(rng.integers(0, 40))
        region = Region(top, left, int(rng.integers(top + 1, 41)), int(rng.integers(left + 1, 51)))
        whole = apply_operations(frames, operations)
        found = apply_operations(frames, operations, region)
        expected = whole[:, region.top : region.bottom, region.left : region.right]
        assert np.array_equal(found, expected), [operation.name for operation in operations]
