"""Transform decoded frames into the model's input clips: crops, flips, augmentation, normalisation.

A pipeline is called with frames, uint8 numpy (T, H, W, 3), and a numpy Generator, and returns a float32 tensor
(views, C, T, H, W). It has two parts: `Compose.prepare` runs the steps, which process uint8 clips (T, C, H, W), and
`finish` normalises and erases, immediately or after the transfer to a device (--gpu_transforms). All frames of a clip
use the same random numbers. Order, ranges and rounding are those of the published video pipelines (VideoMAE,
VideoMamba) and, for images, of timm.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tvf

from common.frame_size import FrameSize, as_pair, shorter
from common.settings import as_typed
from datasets.erasing import COLUMNS, RandomErasing, erase
from datasets.randaugment import RandAugment, apply_operations, parse_randaugment
from datasets.sampling import check_test_sizes
from datasets.settings import CROP_AREA, CROP_ASPECT, AugmentationSettings
from datasets.warp import INTERPOLATIONS, Region

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_RED, _GREEN, _BLUE = (round(255 * mean) for mean in IMAGENET_MEAN)
IMAGE_FILL = (_RED, _GREEN, _BLUE)

Step = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


class Compose:
    """Run steps in order on frames (T, H, W, 3) uint8; the result is (views, C, T, H, W) float32.

    Args:
        steps: The steps; None is skipped.
        erasing: Draws the boxes to erase, if any.
    """

    def __init__(self, steps: Sequence[Step | None], erasing: RandomErasing | None = None):
        self.steps = [step for step in steps if step is not None]
        self.erasing = erasing

    def __call__(self, frames: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        """Transform the frames of one clip."""
        return finish(*self.prepare(frames, rng))

    def prepare(self, frames: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the steps without `finish`: uint8 (views, C, T, H, W), and boxes to erase (views, count, COLUMNS)."""
        clip = to_clip(frames)
        for step in self.steps:
            clip = step(clip, rng)
        views = (clip if clip.dim() == 5 else clip[None]).transpose(1, 2)
        if self.erasing is None:
            return views, torch.zeros((len(views), 0, COLUMNS), dtype=torch.int64)
        height, width = views.shape[-2:]
        return views, torch.stack([self.erasing.draw(height, width, rng) for _ in views])


def finish(clips: torch.Tensor, boxes: torch.Tensor | None = None) -> torch.Tensor:
    """Normalise clips and erase boxes in them, on the clips' device.

    Args:
        clips: uint8 (N, C, T, H, W); float clips are already finished and are returned unchanged.
        boxes: int64 (N, count, COLUMNS), on the CPU, or None.

    Returns:
        float32 (N, C, T, H, W), contiguous.
    """
    if clips.is_floating_point():
        return clips
    finished = Normalize()(clips.transpose(1, 2))
    if boxes is not None:
        for clip, boxes_of_clip in zip(finished, boxes, strict=True):
            erase(clip, boxes_of_clip)
    return finished


@dataclass(frozen=True)
class Augment:
    """RandAugment as a step."""

    augment: RandAugment

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Augment a clip (T, C, H, W) uint8."""
        operations = self.augment.draw(clip.shape[-2], clip.shape[-1], rng)
        return to_clip(apply_operations(_to_frames(clip), operations))


@dataclass(frozen=True)
class RandomResizedCrop:
    """Crop a random box with a given range of area (share of the image) and aspect ratio, and resize it to `size`.

    The aspect ratio is relative to that of `size`: the picture is stretched as much for wide clips as for square ones.
    With `augment`, the image is augmented before, as by `Augment`, but only inside the box. `antialias` is PIL's
    behaviour for images; interpolation of video tensors does not have it.
    """

    size: FrameSize
    area: tuple[float, float] = CROP_AREA
    aspect: tuple[float, float] = CROP_ASPECT
    interpolation: str = "bilinear"
    antialias: bool = False
    augment: RandAugment | None = None

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Crop and resize a clip (T, C, H, W) -> (T, C, *size)."""
        rows, columns = clip.shape[-2:]
        operations = self.augment.draw(rows, columns, rng) if self.augment else []
        top, left, height, width = self.draw_box(rows, columns, rng)
        region = Region(top, left, top + height, left + width)
        box = to_clip(apply_operations(_to_frames(clip), operations, region))
        return _resize(box, *as_pair(self.size), _drawn(self.interpolation, rng), self.antialias)

    def draw_box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw (top, left, height, width); after ten tries, the largest centred box with a valid aspect ratio."""
        clip_height, clip_width = as_pair(self.size)
        shape = clip_width / clip_height
        for _ in range(10):
            area = rng.uniform(*self.area) * height * width
            aspect = shape * math.exp(rng.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
        aspect = min(max(width / height, shape * self.aspect[0]), shape * self.aspect[1])
        w, h = min(width, round(height * aspect)), min(height, round(width / aspect))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True)
class MultiScaleCrop:
    """Crop a box of one of several sizes at one of 13 places, and resize it to `size` (TSN, VideoMamba's pretraining).

    The sides are shares of the largest box with the shape of `size`; those of height and width differ by one step at
    most. The places are the corners, the centre and the points a quarter and half of the way between them.
    """

    size: FrameSize
    shares: tuple[float, ...] = (1, 0.875, 0.75, 0.66)

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Crop and resize a clip (T, C, H, W) -> (T, C, *size)."""
        rows, columns = clip.shape[-2:]
        top, left, height, width = self.draw_box(rows, columns, rng)
        box = clip[..., top : top + height, left : left + width]
        return _resize(box, *as_pair(self.size), "bilinear", True)

    def draw_box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Draw (top, left, height, width) of a box in a frame of `height` x `width`."""
        rows, columns = as_pair(self.size)
        heights = self._sides(min(height, width * rows / columns), rows)
        widths = self._sides(min(width, height * columns / rows), columns)
        steps = range(len(self.shares))
        pairs = [(heights[i], widths[j]) for i in steps for j in steps if abs(i - j) <= 1]
        h, w = pairs[rng.integers(len(pairs))]
        down, across = _MULTI_SCALE_PLACES[rng.integers(len(_MULTI_SCALE_PLACES))]
        return down * ((height - h) // 4), across * ((width - w) // 4), h, w

    def _sides(self, longest: float, wanted: int) -> list[int]:
        """Return the lengths of a side; one within three pixels of the wanted length is not resized."""
        lengths = [int(longest * share) for share in self.shares]
        return [wanted if abs(length - wanted) < 3 and wanted <= longest else length for length in lengths]


# In quarters of the space beside the box: corners, centre and edge centres, and between centre and corners.
_MULTI_SCALE_PLACES = [*((i, j) for i in (0, 2, 4) for j in (0, 2, 4)), (1, 1), (1, 3), (3, 1), (3, 3)]


@dataclass(frozen=True)
class RandomHorizontalFlip:
    """Mirror horizontally with a probability."""

    probability: float

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Mirror a clip (..., H, W) at random."""
        return clip.flip(-1) if rng.random() < self.probability else clip


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast and saturation in random order, by factors in [1 - strength, 1 + strength]."""

    strength: float

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Jitter a clip (T, C, H, W) uint8."""
        adjustments = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation)
        for i in rng.permutation(3):
            clip = adjustments[i](clip, rng.uniform(max(0.0, 1 - self.strength), 1 + self.strength))
        return clip


class Normalize:
    """Normalise uint8 (..., T, C, H, W) to float32 (..., C, T, H, W) by ImageNet's mean and standard deviation."""

    def __init__(self):
        # The division by 255 is part of the scale.
        std = torch.tensor(IMAGENET_STD)
        self.scale = (1 / (255 * std))[:, None, None, None]
        self.shift = (-torch.tensor(IMAGENET_MEAN) / std)[:, None, None, None]

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator | None = None) -> torch.Tensor:
        """Normalise a clip; the result is contiguous and may be modified in place."""
        out = clip.transpose(-4, -3).to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        # Non-blocking, because otherwise every batch would make the host wait for the GPU.
        scale, shift = (values.to(out.device, non_blocking=True) for values in (self.scale, self.shift))
        return out.contiguous().mul_(scale).add_(shift)


@dataclass(frozen=True)
class ResizeToCover:
    """Resize to the smallest frame that contains a crop of `size`, keeping the aspect ratio.

    With one number, this resizes the shorter side to `size` pixels and the longer one to int(size * long / short).
    """

    size: FrameSize
    interpolation: str = "bilinear"
    antialias: bool = False

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Resize a clip (T, C, H, W)."""
        height, width = clip.shape[-2:]
        new_height, new_width = as_pair(self.size)
        if height * new_width < width * new_height:
            new_width = int(new_height * width / height)
        else:
            new_height = int(new_width * height / width)
        if (new_height, new_width) == (height, width):
            return clip
        return _resize(clip, new_height, new_width, self.interpolation, self.antialias)


@dataclass(frozen=True)
class CenterCrop:
    """Crop `size` pixels from the centre."""

    size: FrameSize

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Crop a clip (T, C, H, W) -> (T, C, *size)."""
        height, width = as_pair(self.size)
        top, left = round((clip.shape[-2] - height) / 2), round((clip.shape[-1] - width) / 2)
        return clip[..., top : top + height, left : left + width]


@dataclass(frozen=True)
class SlidingCrops:
    """Crop `size` pixels `count` times along the side that has more, from start to end.

    A single crop is in the middle. The other side must have as many pixels as the crops.
    """

    size: FrameSize
    count: int

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Crop a clip (T, C, H, W) -> (count, T, C, *size)."""
        height, width = as_pair(self.size)
        below, beside = clip.shape[-2] - height, clip.shape[-1] - width
        axis, spare, length = (-2, below, height) if below >= beside else (-1, beside, width)
        if self.count == 1:
            starts = [spare // 2]
        else:
            starts = [int(j * (spare / (self.count - 1))) for j in range(self.count)]
        return torch.stack([clip.narrow(axis, start, length) for start in starts])


def video_train_transform(input_size: FrameSize, settings: AugmentationSettings) -> Compose:
    """Build the training pipeline of videos: augmentation, random crop, flip, normalisation, erasing.

    `train_interpolation` applies to geometric operations of the augmentation; the crop is bilinear, as published.
    """
    augment = _augment(settings)
    flip = RandomHorizontalFlip(settings.hflip) if settings.hflip else None
    if settings.crop == "multi_scale":
        steps = [Augment(augment) if augment else None, MultiScaleCrop(input_size), flip]
    else:
        steps = [RandomResizedCrop(input_size, settings.scale, settings.ratio, augment=augment), flip]
    return Compose(steps, _erasing(settings))


def image_train_transform(input_size: FrameSize, settings: AugmentationSettings) -> Compose:
    """Build the training pipeline of images: crop, flip, then augmentation, or colour jitter without augmentation."""
    jitter = ColorJitter(settings.color_jitter) if settings.color_jitter > 0 else None
    augment = _augment(settings, IMAGE_FILL)
    crop = RandomResizedCrop(input_size, settings.scale, settings.ratio, settings.train_interpolation, antialias=True)
    flip = RandomHorizontalFlip(settings.hflip) if settings.hflip else None
    return Compose([crop, flip, Augment(augment) if augment else jitter], _erasing(settings))


def video_validation_transform(input_size: FrameSize, short_side_size: int) -> Compose:
    """Build the pipeline of validation clips: resize the short side to `short_side_size`, then crop the centre."""
    if short_side_size < shorter(input_size):
        raise ValueError(
            f"--short_side_size {short_side_size} is smaller than --input_size {as_typed(input_size)}: "
            "the frame would be smaller than the crop"
        )
    enlarged = short_side_size / shorter(input_size)
    return Compose([ResizeToCover([round(enlarged * side) for side in as_pair(input_size)]), CenterCrop(input_size)])


def video_test_transform(input_size: FrameSize, short_side_size: int, num_crops: int) -> Compose:
    """Build the pipeline of test clips: resize to cover a crop, then take `num_crops` along the longer side."""
    check_test_sizes(input_size, short_side_size)
    return Compose([ResizeToCover(input_size), SlidingCrops(input_size, num_crops)])


def image_eval_transform(input_size: FrameSize, crop_pct: float) -> Compose:
    """Build the evaluation pipeline of images: resize to cover input_size / crop_pct, crop the centre."""
    if not 0 < crop_pct <= 1:
        raise ValueError(f"--crop_pct must be above 0 and at most 1, not {crop_pct}")
    enlarged = [int(side / crop_pct) for side in as_pair(input_size)]
    resize = ResizeToCover(enlarged, interpolation="bicubic", antialias=True)
    return Compose([resize, CenterCrop(input_size)])


def _augment(settings: AugmentationSettings, *fill: tuple[int, int, int]) -> RandAugment | None:
    interpolation = settings.train_interpolation
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f'--train_interpolation must be one of {", ".join(INTERPOLATIONS)}, not "{interpolation}"')
    operations = parse_randaugment(settings.aa or "none")
    return RandAugment(operations, interpolation, *fill) if operations else None


def _erasing(settings: AugmentationSettings) -> RandomErasing | None:
    return RandomErasing(settings.reprob, settings.remode, settings.recount) if settings.reprob > 0 else None


def _to_frames(clip: torch.Tensor) -> np.ndarray:
    """View (T, C, H, W) as (T, H, W, C)."""
    return clip.permute(0, 2, 3, 1).numpy()


def to_clip(frames: np.ndarray) -> torch.Tensor:
    """View (T, H, W, C) as (T, C, H, W)."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def _drawn(interpolation: str, rng: np.random.Generator) -> str:
    """Draw the interpolation if the setting is "random"."""
    if interpolation == "random":
        return "bilinear" if rng.random() < 0.5 else "bicubic"
    return interpolation


def _resize(clip: torch.Tensor, height: int, width: int, interpolation: str, antialias: bool) -> torch.Tensor:
    return tvf.resize(clip, [height, width], InterpolationMode(interpolation), antialias=antialias)
