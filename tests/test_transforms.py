"""Transforms: the published geometry and normalisation, and one set of random numbers for a whole clip."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.erasing import RandomErasing, erase
from datasets.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AugmentationSettings,
    CenterCrop,
    ColorJitter,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ResizeToCover,
    SlidingCrops,
    image_eval_transform,
    image_train_transform,
    video_test_transform,
    video_train_transform,
    video_validation_transform,
)

RNG = np.random.default_rng(0)


def clip_of(height, width, length=4):
    """The same random picture in every frame, uint8 (T, C, H, W)."""
    picture = torch.from_numpy(RNG.integers(0, 256, size=(3, height, width), dtype=np.uint8))
    return picture.expand(length, -1, -1, -1).clone()


def coordinates(height, width):
    """A clip whose first channel holds the row and second the column of each pixel."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8)[None].expand(height, width)
    return torch.stack([rows, columns, torch.zeros_like(rows)])[None]


def smooth_frames(height, width, length=2):
    """A smooth picture, so that ways of interpolation agree, uint8 (T, H, W, 3)."""
    small = Image.fromarray(RNG.integers(0, 256, size=(5, 6, 3), dtype=np.uint8))
    picture = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return np.broadcast_to(picture, (length, height, width, 3)).copy()


def test_crop_boxes_have_the_published_area_and_aspect():
    crop = RandomResizedCrop(32)
    rng = np.random.default_rng(0)
    boxes = np.array([crop.draw_box(200, 300, rng) for _ in range(3000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 200).all() and (left + width <= 300).all()
    area, aspect = height * width / 60000, width / height
    assert area.min() > 0.07 and area.max() <= 1
    assert aspect.min() > 0.74 and aspect.max() < 1.35
    # small boxes are always accepted: among them the area is uniform and the logarithm of the aspect too
    small = area < 0.4
    assert abs(area[small].mean() - 0.24) < 0.01
    assert abs(np.log(aspect[small]).mean()) < 0.02
    assert abs(np.log(aspect[small]).std() - 2 * math.log(4 / 3) / math.sqrt(12)) < 0.02


def test_a_crop_of_a_strip_falls_back_to_its_middle():
    box = RandomResizedCrop(32).draw_box(10, 1000, np.random.default_rng(0))
    assert box == (0, 493, 10, 13)


def test_a_crop_is_the_resized_box():
    clip, rng_state = clip_of(64, 96), 5
    crop = RandomResizedCrop(48)
    top, left, height, width = crop.draw_box(64, 96, np.random.default_rng(rng_state))
    found = crop(clip, np.random.default_rng(rng_state))
    box = clip[:, :, top : top + height, left : left + width].float()
    expected = torch.nn.functional.interpolate(box, (48, 48), mode="bilinear", align_corners=False)
    assert found.shape == (4, 3, 48, 48) and found.dtype == torch.uint8
    assert (found.float() - expected).abs().max() <= 1


def test_flip_probability_and_direction():
    clip = clip_of(8, 10)
    flip, rng = RandomHorizontalFlip(0.3), np.random.default_rng(0)
    results = [flip(clip, rng) for _ in range(1000)]
    mirrored = [torch.equal(result, clip.flip(3)) for result in results]
    assert 0.25 < np.mean(mirrored) < 0.35
    assert all(torch.equal(result, clip) for result, yes in zip(results, mirrored, strict=True) if not yes)


def test_normalisation():
    clip = clip_of(6, 7)
    out = Normalize()(clip, None)
    assert out.shape == (3, 4, 6, 7) and out.dtype == torch.float32 and out.is_contiguous()
    for channel in range(3):
        expected = (clip[:, channel].double() / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        assert torch.allclose(out[channel].double(), expected, atol=1e-5)


def test_erasing_is_one_box_through_all_frames():
    rng = np.random.default_rng(0)
    areas, aspects, erased = [], [], 0
    for _ in range(2000):
        clip = erase(torch.full((3, 2, 60, 80), 7.0), RandomErasing(0.25).draw(60, 80, rng))
        changed = (clip != 7.0).all(0)
        assert torch.equal(changed[0], changed[1])
        if not changed.any():
            continue
        erased += 1
        rows, columns = changed[0].any(1).nonzero().flatten(), changed[0].any(0).nonzero().flatten()
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert changed[0].sum() == height * width
        areas.append(float(height * width) / 4800)
        aspects.append(float(height) / float(width))
    assert 0.22 < erased / 2000 < 0.28
    assert min(areas) > 0.015 and max(areas) < 0.345 and abs(np.mean(areas) - 0.17) < 0.02
    assert min(aspects) > 0.25 and max(aspects) < 3.9


def test_what_is_put_into_erased_boxes():
    def erased(mode):
        clip = erase(torch.full((3, 4, 64, 64), 7.0), RandomErasing(1.0, mode).draw(64, 64, np.random.default_rng(3)))
        inside = (clip != 7.0).all(0)[0]
        return clip[:, :, inside]

    noise = erased("pixel")
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    assert not torch.equal(noise[:, 0], noise[:, 1])
    colour = erased("rand")
    assert all(len(colour[channel].unique()) == 1 for channel in range(3)) and len(colour.unique()) == 3
    assert (erased("const") == 0).all()
    with pytest.raises(ValueError, match="--remode"):
        RandomErasing(1.0, "noise")


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(240, 320, (112, 149)), (320, 240, (149, 112)), (112, 300, (112, 300))]
)
def test_the_short_side_is_resized(height, width, expected):
    assert ResizeToCover(112)(clip_of(height, width, 1), None).shape[-2:] == expected


def test_the_centre_crop_rounds_halves_to_even():
    found = CenterCrop(8)(coordinates(11, 13), None)
    # (11 - 8) / 2 = 1.5 -> 2 and (13 - 8) / 2 = 2.5 -> 2
    assert found[0, 0, :, 0].tolist() == list(range(2, 10))
    assert found[0, 1, 0].tolist() == list(range(2, 10))


@pytest.mark.parametrize(
    ("height", "width", "count", "axis", "starts"),
    [
        (64, 101, 3, 1, [0, 18, 37]),
        (101, 64, 3, 0, [0, 18, 37]),
        (64, 101, 1, 1, [18]),
        (64, 64, 3, 0, [0, 0, 0]),
        (64, 100, 5, 1, [0, 9, 18, 27, 36]),
    ],
)
def test_crops_slide_along_the_longer_side(height, width, count, axis, starts):
    crops = SlidingCrops(64, count)(coordinates(height, width), None)
    assert crops.shape == (count, 1, 3, 64, 64)
    assert crops[:, 0, axis, 0, 0].tolist() == starts
    assert (crops[:, 0, 1 - axis, 0, 0] == 0).all()


def test_pipelines_give_views_of_clips():
    frames = smooth_frames(72, 100)
    rng = np.random.default_rng(0)
    train = video_train_transform(48, AugmentationSettings(aa="rand-m7-n4-mstd0.5-inc1", hflip=0.5))
    assert train(frames, rng).shape == (1, 3, 2, 48, 48)
    assert video_validation_transform(48, 56)(frames, rng).shape == (1, 3, 2, 48, 48)
    assert video_test_transform(48, 48, 3)(frames, rng).shape == (3, 3, 2, 48, 48)
    assert image_eval_transform(48, 0.875)(frames[:1], rng).shape == (1, 3, 1, 48, 48)


def test_the_same_generator_state_gives_the_same_clip_and_frames_stay_alike():
    frames = smooth_frames(72, 100, 5)
    settings = AugmentationSettings(aa="rand-m9-n4-mstd0.5-inc1", hflip=0.5, reprob=0.0, train_interpolation="random")
    video, image = video_train_transform(48, settings), image_train_transform(48, settings)
    for transform in (video, image):
        seen = []
        for seed in range(12):
            clips = [transform(frames, np.random.default_rng(seed)) for _ in range(2)]
            assert torch.equal(*clips)
            # identical frames stay identical: no random number is a frame's own
            assert torch.equal(clips[0], clips[0][:, :, :1].expand_as(clips[0]))
            seen.append(clips[0])
        assert not any(torch.equal(a, b) for a, b in zip(seen, seen[1:], strict=False))


def test_validation_and_image_evaluation_show_what_pil_shows():
    def normalised(picture):
        array = (np.asarray(picture, dtype=np.float64) / 255 - IMAGENET_MEAN) / IMAGENET_STD
        return torch.from_numpy(array).permute(2, 0, 1)

    frames = smooth_frames(40, 50, 1)
    picture = Image.fromarray(frames[0])
    enlarged = picture.resize((80, 64), Image.Resampling.BILINEAR).crop((12, 4, 68, 60))
    found = video_validation_transform(56, 64)(frames, None)[0, :, 0]
    # two grey levels of 255, in normalised units: PIL rounds between its two passes
    assert (found - normalised(enlarged)).abs().max() < 2 / 255 / min(IMAGENET_STD) + 1e-6
    frames = smooth_frames(100, 150, 1)
    reduced = Image.fromarray(frames[0]).resize((96, 64), Image.Resampling.BICUBIC).crop((20, 4, 76, 60))
    found = image_eval_transform(56, 0.875)(frames, None)[0, :, 0]
    assert (found - normalised(reduced)).abs().max() < 2 / 255 / min(IMAGENET_STD) + 1e-6


def test_images_without_augmentation_are_jittered_in_colour():
    def clip(strength):
        plain = AugmentationSettings(aa="none", hflip=0, reprob=0, train_interpolation="bilinear")
        transform = image_train_transform(32, replace(plain, color_jitter=strength))
        return transform(smooth_frames_fixed, np.random.default_rng(0))

    smooth_frames_fixed = smooth_frames(64, 64, 1)
    assert not torch.equal(clip(0.0), clip(0.4))
    grey = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    rng = np.random.default_rng(0)
    levels = [int(ColorJitter(0.4)(grey, rng)[0, 0, 0, 0]) for _ in range(500)]
    # of a grey picture, contrast and saturation change nothing: what is left is brightness, 60 to 140
    assert 58 <= min(levels) < 66 and 134 < max(levels) <= 141


def test_contradicting_sizes_are_told():
    with pytest.raises(ValueError, match="--short_side_size 224 and --input_size 112 must be equal"):
        video_test_transform(112, 224, 3)
    with pytest.raises(ValueError, match="smaller than --input_size"):
        video_validation_transform(224, 112)
    with pytest.raises(ValueError, match="--crop_pct"):
        image_eval_transform(224, 87.5)
    with pytest.raises(ValueError, match="--train_interpolation"):
        video_train_transform(32, AugmentationSettings(train_interpolation="lanczos"))
