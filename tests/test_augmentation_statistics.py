"""The distributions of the training augmentation, against another implementation of the published one.

The pictures tell what was drawn: a picture whose colours are its coordinates shows crop and flip, and RandAugment's
operations are drawn a second time here, with Python's own random numbers.
"""

import math
import random

import numpy as np
import pytest
import torch

from datasets.randaugment import RandAugment, parse_randaugment
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, AugmentationSettings, video_train_transform

DRAWS = 1500
HEIGHT, WIDTH = 240, 320


def published_crop(rng):
    """Draw a crop (y, x, height, width): area 0.08 to 1, log aspect ratio 3/4 to 4/3, ten tries, then the centre."""
    for _ in range(10):
        area = HEIGHT * WIDTH * rng.uniform(0.08, 1.0)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = int(round(math.sqrt(area * ratio))), int(round(math.sqrt(area / ratio)))
        if 0 < width <= WIDTH and 0 < height <= HEIGHT:
            return rng.randint(0, HEIGHT - height), rng.randint(0, WIDTH - width), height, width
    width = min(WIDTH, int(round(HEIGHT * 4 / 3)))
    return 0, (WIDTH - width) // 2, HEIGHT, width


def seen_crops(hflip=0.5):
    """Determine the crops and flips of our pipeline from its images: boxes (DRAWS, 4) and flips (DRAWS,)."""
    settings = {"aa": "none", "train_interpolation": "bicubic", "reprob": 0.0, "remode": "pixel", "recount": 1}
    transform = video_train_transform(32, AugmentationSettings(hflip=hflip, **settings))
    frames = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    frames[0, :, :, 0] = (np.arange(HEIGHT) + 0.5)[:, None]
    frames[0, :, :, 1] = ((np.arange(WIDTH) + 0.5) / 2)[None]
    rng = np.random.default_rng(0)
    boxes, flips = [], []
    for _ in range(DRAWS):
        clip = transform(frames, rng)[0, :, 0]
        rows = clip[0].mean(1) * 255 * IMAGENET_STD[0] + 255 * IMAGENET_MEAN[0]
        columns = 2 * (clip[1].mean(0) * 255 * IMAGENET_STD[1] + 255 * IMAGENET_MEAN[1])
        # means over the first and last pixels of 32: their distance is 31/32 of the side
        height, width = (float(abs(line[-1] - line[0])) * 32 / 31 for line in (rows, columns))
        boxes.append((float(rows.mean()) - height / 2, float(columns.mean()) - width / 2, height, width))
        flips.append(bool(columns[0] > columns[-1]))
    return np.array(boxes), np.array(flips)


def assert_same_distribution(found, expected):
    """Kolmogorov-Smirnov test: the distance of two distributions, at a significance level of 10^-5."""
    values = np.sort(np.concatenate([found, expected]))
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (found, expected)]
    assert np.abs(shares[0] - shares[1]).max() < 2.5 / math.sqrt(len(found))


def test_crops_have_the_published_places_areas_and_aspects():
    found, flips = seen_crops()
    rng = random.Random(1)
    expected = np.array([published_crop(rng) for _ in range(20 * DRAWS)], dtype=float)
    noise = np.random.default_rng(0).uniform(-1, 1, size=expected.shape)  # the pictures tell a box to about a pixel
    expected += noise
    for measure in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: np.log(box[:, 3] / box[:, 2]),
        lambda box: box[:, 0] + box[:, 2] / 2,
        lambda box: box[:, 1] + box[:, 3] / 2,
    ):
        assert_same_distribution(measure(found), measure(expected))
    assert abs(flips.mean() - 0.5) < 0.05
    assert not seen_crops(hflip=0.0)[1].any()


@pytest.mark.parametrize("text", ["rand-m7-n4-mstd0.5-inc1", "rand-m9-n2-mstd1-inc1"])
def test_operations_and_magnitudes_are_the_published(text):
    settings = parse_randaugment(text)
    augment, ours = RandAugment(settings), np.random.default_rng(0)
    drawn = [augment.draw(HEIGHT, WIDTH, ours) for _ in range(4 * DRAWS)]
    rng = random.Random(1)

    def level():
        return min(10.0, max(0.0, rng.gauss(settings.magnitude, settings.magnitude_std)))

    # n draws with replacement, each applied with probability 0.5
    counts = np.array([len(operations) for operations in drawn], dtype=float)
    expected = np.array([sum(rng.random() < 0.5 for _ in range(settings.num_ops)) for _ in drawn], dtype=float)
    assert (
        np.abs(np.bincount(counts.astype(int), minlength=5) - np.bincount(expected.astype(int), minlength=5)).max()
        < 250
    )
    angles = [math.degrees(math.asin(op.affine.matrix[3])) for ops in drawn for op in ops if op.name == "Rotate"]
    assert_same_distribution(np.array(angles), np.array([rng.choice([-1, 1]) * 3.0 * level() for _ in range(20000)]))
    shifts = [op.affine.matrix[2] for ops in drawn for op in ops if op.name == "TranslateXRel"]
    expected = np.array([rng.choice([-1, 1]) * 0.045 * level() * WIDTH for _ in range(20000)])
    assert_same_distribution(np.array(shifts), expected)
    factors = [op.function.args[0] for ops in drawn for op in ops if op.name == "ColorIncreasing"]
    expected = np.array([max(0.1, 1 + rng.choice([-1, 1]) * 0.09 * level()) for _ in range(20000)])
    assert_same_distribution(np.array(factors), expected)
    thresholds = [op.function.args[0] for ops in drawn for op in ops if op.name == "SolarizeIncreasing"]
    expected = np.array([256 - min(256, int(level() * 25.6)) for _ in range(20000)], dtype=float)
    assert_same_distribution(np.array(thresholds, dtype=float), expected)


def test_erased_boxes_have_the_published_shares():
    settings = {"aa": "none", "train_interpolation": "bicubic", "hflip": 0.0, "remode": "const", "recount": 1}
    transform = video_train_transform(64, AugmentationSettings(reprob=0.25, **settings))
    frames, ours = np.full((1, 64, 64, 3), 255, np.uint8), np.random.default_rng(0)
    areas = np.array([float((transform(frames, ours)[0, 0, 0] == 0).float().mean()) for _ in range(2 * DRAWS)])
    assert abs((areas > 0).mean() - 0.25) < 0.04

    rng, expected = random.Random(1), []
    while len(expected) < 10000:
        area, ratio = 64 * 64 * rng.uniform(0.02, 1 / 3), math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if height < 64 and width < 64:
            expected.append(height * width / 4096)
    assert_same_distribution(areas[areas > 0], np.array(expected))
    assert torch.equal(*(transform(frames, np.random.default_rng(3)) for _ in range(2)))
