"""From decoded frames to the clip a model reads: crops, flips, augmentation, normalisation.

A pipeline is called with frames, uint8 numpy (T, H, W, 3), and a numpy Generator, and returns a float32 tensor
(views, C, T, H, W). It has two halves: `Compose.prepare` runs the steps, which pass on uint8 clips (T, C, H, W), and
`finish` normalises and erases, at once or after the transfer to a device (--gpu_transforms). All frames of a clip
share every random number. Order, ranges and roundings are those of the published video pipelines (VideoMAE,
VideoMamba) and, for images, of timm.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from common.flag_types import fraction, non_negative, positive, positive_fraction, positive_int
from common.settings import flag, option
from datasets.erasing import COLUMNS, RandomErasing, erase
from datasets.randaugment import RandAugment, apply_operations, parse_randaugment
from datasets.sampling import check_test_sizes
from datasets.warp import INTERPOLATIONS, Region

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_AREA = (0.08, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)
_RED, _GREEN, _BLUE = (round(255 * mean) for mean in IMAGENET_MEAN)
IMAGE_FILL = (_RED, _GREEN, _BLUE)

Step = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


class Compose:
    """Run steps one after another on frames (T, H, W, 3) uint8; returns (views, C, T, H, W) float32."""

    def __init__(self, steps: Sequence[Step | None], erasing: RandomErasing | None = None):
        """Keep the steps that are there, None stands for one that is switched off, and what is erased at the end."""
        self.steps = [step for step in steps if step is not None]
        self.erasing = erasing

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Transform the frames of one clip."""
        return finish(*self.prepare(frames, rng))

    def prepare(self, frames: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Do all but `finish`: uint8 (views, C, T, H, W), and the boxes to erase in each (views, count, COLUMNS)."""
        clip = _to_clip(frames)
        for step in self.steps:
            clip = step(clip, rng)
        views = (clip if clip.dim() == 5 else clip[None]).transpose(1, 2)
        if self.erasing is None:
            return views, torch.zeros((len(views), 0, COLUMNS), dtype=torch.int64)
        height, width = views.shape[-2:]
        return views, torch.stack([self.erasing.draw(height, width, rng) for _ in views])


def finish(clips: torch.Tensor, boxes: torch.Tensor | None = None) -> torch.Tensor:
    """Normalise clips and erase boxes in them, on the device that they are on.

    Args:
        clips: uint8 (N, C, T, H, W); float ones are finished already, and returned as they are.
        boxes: int64 (N, count, COLUMNS), on the CPU; None for none.

    Returns:
        float32 (N, C, T, H, W), contiguous.
    """
    if clips.is_floating_point():
        return clips
    finished = Normalize()(clips.transpose(1, 2))
    if boxes is not None:
        for clip, of_clip in zip(finished, boxes, strict=True):
            erase(clip, of_clip)
    return finished


@dataclass(frozen=True)
class Augment:
    """RandAugment as a step."""

    augment: RandAugment

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Augment a clip (T, C, H, W) uint8."""
        operations = self.augment.draw(clip.shape[-2], clip.shape[-1], rng)
        return _to_clip(apply_operations(_to_frames(clip), operations))


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut a random box, by area (share of the picture) and aspect ratio (width / height), and make it a square.

    With `augment`, the picture is augmented before: as `Augment` would, but only what the box will show. `antialias`
    is what PIL does with images, and interpolation of video tensors does not.
    """

    size: int
    area: tuple[float, float] = CROP_AREA
    aspect: tuple[float, float] = CROP_ASPECT
    interpolation: str = "bilinear"
    antialias: bool = False
    augment: RandAugment | None = None

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Crop and resize a clip (T, C, H, W) -> (T, C, size, size)."""
        rows, columns = clip.shape[-2:]
        operations = self.augment.draw(rows, columns, rng) if self.augment else []
        top, left, height, width = self.draw_box(rows, columns, rng)
        region = Region(top, left, top + height, left + width)
        box = _to_clip(apply_operations(_to_frames(clip), operations, region))
        return _resize(box, self.size, self.size, _drawn(self.interpolation, rng), self.antialias)

    def draw_box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw (top, left, height, width): ten tries, then the largest centred box of an allowed aspect ratio."""
        for _ in range(10):
            area = rng.uniform(*self.area) * height * width
            aspect = math.exp(rng.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
        aspect = min(max(width / height, self.aspect[0]), self.aspect[1])
        w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Mirror left and right with a probability."""

    probability: float

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Mirror a clip (..., H, W) or leave it."""
        return clip.flip(-1) if rng.random() < self.probability else clip


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and saturation, in random order, by factors from [1 - strength, 1 + strength]."""

    strength: float

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Jitter a clip (T, C, H, W) uint8."""
        adjustments = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation)
        for i in rng.permutation(3):
            clip = adjustments[i](clip, rng.uniform(max(0.0, 1 - self.strength), 1 + self.strength))
        return clip


class Normalize:
    """uint8 (..., T, C, H, W) -> float32 (..., C, T, H, W), with ImageNet's mean and standard deviation."""

    def __init__(self):
        """Fold the division by 255 into one scale and one shift per channel."""
        std = torch.tensor(IMAGENET_STD)
        self.scale = (1 / (255 * std))[:, None, None, None]
        self.shift = (-torch.tensor(IMAGENET_MEAN) / std)[:, None, None, None]

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Normalise a clip; the result is contiguous and may be changed in place."""
        out = clip.transpose(-4, -3).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        # Three numbers each; without waiting, or every batch would stop the host until the GPU has caught up.
        scale, shift = (values.to(out.device, non_blocking=True) for values in (self.scale, self.shift))
        return out.contiguous().mul_(scale).add_(shift)


@dataclass(frozen=True)
class ResizeShortSide:
    """Resize so that the shorter side is `size` pixels and the longer int(size * long / short)."""

    size: int
    interpolation: str = "bilinear"
    antialias: bool = False

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Resize a clip (T, C, H, W)."""
        height, width = clip.shape[-2:]
        if min(height, width) == self.size:
            return clip
        if height < width:
            new_height, new_width = self.size, int(self.size * width / height)
        else:
            new_height, new_width = int(self.size * height / width), self.size
        return _resize(clip, new_height, new_width, self.interpolation, self.antialias)


@dataclass(frozen=True)
class CenterCrop:
    """Cut the square of `size` pixels in the middle."""

    size: int

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Crop a clip (T, C, H, W) -> (T, C, size, size)."""
        top, left = (round((side - self.size) / 2) for side in clip.shape[-2:])
        return clip[..., top : top + self.size, left : left + self.size]


@dataclass(frozen=True)
class SlidingCrops:
    """Cut `count` squares of `size` pixels along the longer side, from its start to its end.

    A single one is in the middle. The shorter side must be `size` already.
    """

    size: int
    count: int

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Crop a clip (T, C, H, W) -> (count, T, C, size, size)."""
        height, width = clip.shape[-2:]
        axis, spare = (-2, height - self.size) if height >= width else (-1, width - self.size)
        if self.count == 1:
            starts = [spare // 2]
        else:
            starts = [int(j * (spare / (self.count - 1))) for j in range(self.count)]
        return torch.stack([clip.narrow(axis, start, self.size) for start in starts])


@dataclass(frozen=True)
class AugmentationSettings:
    """How training clips are varied."""

    num_sample: int = option(2, "augmentations of each decoded clip", positive_int)
    aa: str | None = option(None, 'RandAugment, "none" for off (default: the preset\'s)')
    color_jitter: float = option(0.4, "images without --aa: strength", non_negative)
    train_interpolation: str = option("bicubic", "bilinear, bicubic or random")
    scale: tuple[float, float] = option(
        CROP_AREA, "area of a random crop, a share", positive_fraction, metavar=("MIN", "MAX")
    )
    ratio: tuple[float, float] = option(CROP_ASPECT, "its width / height", positive, metavar=("MIN", "MAX"))
    hflip: float | None = option(None, "probability of mirroring (default: the preset's)", fraction)
    reprob: float = option(0.25, "probability of erasing", fraction)
    remode: str = option("pixel", "erase with pixel, rand or const")
    recount: int = option(1, "most boxes to erase", positive_int)
    gpu_transforms: bool = flag(
        False,
        "normalise and erase on the device, a batch at a time: workers pass on 1 byte a value instead of 4. "
        "Pays where a GPU waits for its workers or for transfers; on a CPU it costs time (default: off)",
    )
    seed: int = 0
    """of the random numbers of sampling and augmentation: a flag of the engine."""


def video_train_transform(input_size: int, settings: AugmentationSettings) -> Compose:
    """Build the training pipeline of videos: augmentation, random crop, flip, normalisation, erasing.

    `train_interpolation` is that of the augmentation's geometric operations; the crop is bilinear, as published.
    """
    return Compose([
        RandomResizedCrop(input_size, settings.scale, settings.ratio, augment=_augment(settings)),
        RandomHorizontalFlip(settings.hflip) if settings.hflip else None,
    ], _erasing(settings))  # fmt: skip


def image_train_transform(input_size: int, settings: AugmentationSettings) -> Compose:
    """Build the training pipeline of images: crop and flip first, then augmentation, or colour jitter without one."""
    jitter = ColorJitter(settings.color_jitter) if settings.color_jitter > 0 else None
    augment = _augment(settings, IMAGE_FILL)
    return Compose([
        RandomResizedCrop(input_size, settings.scale, settings.ratio, settings.train_interpolation, antialias=True),
        RandomHorizontalFlip(settings.hflip) if settings.hflip else None,
        Augment(augment) if augment else jitter,
    ], _erasing(settings))  # fmt: skip


def video_validation_transform(input_size: int, short_side_size: int) -> Compose:
    """Build the pipeline of validation clips: short side to `short_side_size`, then the square in the middle."""
    if short_side_size < input_size:
        raise ValueError(
            f"--short_side_size {short_side_size} is smaller than --input_size {input_size}: "
            "the picture would be smaller than the crop"
        )
    return Compose([ResizeShortSide(short_side_size), CenterCrop(input_size)])


def video_test_transform(input_size: int, short_side_size: int, num_crops: int) -> Compose:
    """Build the pipeline of test clips: short side to `short_side_size`, then `num_crops` squares along the longer."""
    check_test_sizes(input_size, short_side_size)
    return Compose([ResizeShortSide(short_side_size), SlidingCrops(input_size, num_crops)])


def image_eval_transform(input_size: int, crop_pct: float) -> Compose:
    """Build the evaluation pipeline of images: short side to input_size / crop_pct, then the square in the middle."""
    if not 0 < crop_pct <= 1:
        raise ValueError(f"--crop_pct is a share of the picture, above 0 and up to 1, not {crop_pct}")
    resize = ResizeShortSide(int(input_size / crop_pct), interpolation="bicubic", antialias=True)
    return Compose([resize, CenterCrop(input_size)])


def _augment(settings: AugmentationSettings, *fill: tuple[int, int, int]) -> RandAugment | None:
    interpolation = settings.train_interpolation
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f'--train_interpolation is one of {", ".join(INTERPOLATIONS)}, not "{interpolation}"')
    operations = parse_randaugment(settings.aa or "none")
    return RandAugment(operations, interpolation, *fill) if operations else None


def _erasing(settings: AugmentationSettings) -> RandomErasing | None:
    return RandomErasing(settings.reprob, settings.remode, settings.recount) if settings.reprob > 0 else None


def _to_frames(clip: torch.Tensor) -> np.ndarray:
    """(T, C, H, W) -> (T, H, W, C), the same memory."""
    return clip.permute(0, 2, 3, 1).numpy()


def _to_clip(frames: np.ndarray) -> torch.Tensor:
    """(T, H, W, C) -> (T, C, H, W), the same memory."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def _drawn(interpolation: str, rng: np.random.Generator) -> str:
    """Decide for one of two where the setting is "random"."""
    if interpolation == "random":
        return "bilinear" if rng.random() < 0.5 else "bicubic"
    return interpolation


def _resize(clip: torch.Tensor, height: int, width: int, interpolation: str, antialias: bool) -> torch.Tensor:
    return tvf.resize(clip, [height, width], InterpolationMode(interpolation), antialias=antialias)
