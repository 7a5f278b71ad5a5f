"""RandAugment: each operation against timm's on PIL images, the settings strings, and what is drawn how often."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_aa

from datasets import randaugment
from datasets.randaugment import (
    INCREASING_OPS,
    PLAIN_OPS,
    RandAugment,
    RandAugmentSettings,
    Warper,
    apply_op,
    parse_randaugment,
)


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


@pytest.mark.parametrize("level", [0.0, 2.5, 7.0, 10.0])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", sorted(set(INCREASING_OPS + PLAIN_OPS)))
def test_each_operation_gives_the_picture_that_timm_gives(name, level, sign, picture, monkeypatch):
    expected = by_timm(name, picture, level, sign, monkeypatch)
    clip = torch.from_numpy(picture).permute(2, 0, 1)[None].expand(2, -1, -1, -1)
    found = apply_op(name, clip, level, Sign(0.0 if sign < 0 else 0.9))
    assert found.dtype == torch.uint8 and torch.equal(found[0], found[1])
    difference = np.abs(found[0].permute(1, 2, 0).numpy().astype(int) - expected)
    # other bicubic coefficients and roundings differ near the sharp edges; a wrong sign, centre or
    # magnitude differs by tens everywhere
    assert difference.mean() < 0.6
    assert np.quantile(difference, 0.98) <= 3


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
def test_settings_that_are_not_understood_are_told(text):
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


def test_operations_are_drawn_evenly_and_half_of_them_applied(monkeypatch):
    applied = Counter()

    def count(name, clip, level, rng, warper):
        applied[name] += 1
        return clip

    monkeypatch.setattr(randaugment, "apply_op", count)
    augment, rng = RandAugment(parse_randaugment("rand-m7-n4-mstd0.5-inc1")), np.random.default_rng(0)
    for _ in range(3000):
        augment(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), rng)
    assert set(applied) == set(INCREASING_OPS)
    total = sum(applied.values())
    assert abs(total / 12000 - 0.5) < 0.02
    assert max(abs(n / total - 1 / 15) for n in applied.values()) < 0.012


def test_both_signs_are_drawn(picture):
    clip = torch.from_numpy(picture).permute(2, 0, 1)[None]
    rng = np.random.default_rng(0)
    pictures = Counter(apply_op("Rotate", clip, 7.0, rng).numpy().tobytes() for _ in range(200))
    assert len(pictures) == 2 and min(pictures.values()) > 70


def test_what_comes_from_outside_has_the_fill_colour():
    clip = torch.zeros(2, 3, 20, 30, dtype=torch.uint8)
    moved = Warper("bilinear", (10, 20, 30))(clip, (1, 0, 6, 0, 1, 0), np.random.default_rng(0))
    assert (moved[..., :24] == 0).all()
    assert moved[1, :, 5, 24:].T.tolist() == [[10, 20, 30]] * 6
