"""RandAugment on whole clips: the same operations and magnitudes for all frames.

Reads the settings strings of timm and VideoMAE, such as `rand-m7-n4-mstd0.5-inc1`: n operations are drawn from
fifteen, each is applied with probability 0.5 at a magnitude drawn from a normal distribution (mean m, standard
deviation mstd, kept within 0..10). "inc1" takes the forms of the operations that grow stronger with the magnitude.

Clips are uint8 tensors (T, C, H, W). Geometric operations follow PIL's conventions (pixel centres at half integers,
the picture's border repeated for interpolation, `fill` outside of it), colour operations are torchvision's.
RandAugment: Cubuk et al. 2019, arXiv 1909.13719; the argument ranges are timm's.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import grid_sample
from torchvision.transforms.v2 import functional as tvf

MAX_LEVEL = 10.0
VIDEO_FILL = (128, 128, 128)
INTERPOLATIONS = ("bilinear", "bicubic", "random")

_FIELD = re.compile(r"(mstd|mmax|inc|m|n|p)(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class RandAugmentSettings:
    """What a settings string says."""

    magnitude: float = 10.0
    """m: the mean magnitude, 0..10."""
    num_ops: int = 2
    """n: operations drawn for a clip, with replacement."""
    magnitude_std: float = 0.0
    """mstd: standard deviation of the magnitude; above 100: uniform in 0..m."""
    probability: float = 0.5
    """p: with which a drawn operation is applied."""
    increasing: bool = False
    """inc: forms of the operations that grow stronger with the magnitude."""
    max_magnitude: float = MAX_LEVEL
    """mmax: magnitudes are kept within 0..mmax."""


def parse_randaugment(text: str) -> RandAugmentSettings | None:
    """Read a settings string; "" and "none" give None, no augmentation.

    Raises:
        ValueError: a part of the string is not understood; the message says which.
    """
    if text.strip().lower() in ("", "none"):
        return None
    head, *fields = text.strip().split("-")
    found = {}
    for field in fields:
        match = _FIELD.fullmatch(field)
        if match is None:
            raise ValueError(
                f'--aa {text}: "{field}" is not understood; '
                "the parts are m, n, mstd, mmax, p and inc, each followed by a number"
            )
        found[match[1]] = float(match[2])
    if head != "rand":
        raise ValueError(f'--aa {text}: it should be like rand-m7-n4-mstd0.5-inc1, or "none"')
    return RandAugmentSettings(
        magnitude=found.get("m", 10.0),
        num_ops=int(found.get("n", 2)),
        magnitude_std=found.get("mstd", 0.0),
        probability=found.get("p", 0.5),
        increasing=bool(found.get("inc", 0)),
        max_magnitude=found.get("mmax", MAX_LEVEL),
    )


@dataclass(frozen=True)
class Warper:
    """How geometric operations resample: interpolation ("bilinear", "bicubic", "random") and fill colour (0..255)."""

    interpolation: str = "bicubic"
    fill: tuple[int, int, int] = VIDEO_FILL

    def __call__(self, clip: torch.Tensor, matrix: tuple[float, ...], rng: np.random.Generator) -> torch.Tensor:
        """Resample a clip (T, C, H, W) so that output (x, y) shows input (a x + b y + c, d x + e y + f)."""
        interpolation = self.interpolation
        if interpolation == "random":
            interpolation = "bilinear" if rng.random() < 0.5 else "bicubic"
        length, _, height, width = clip.shape
        a, b, c, d, e, f = matrix
        x = torch.arange(width, dtype=torch.float32) + 0.5
        y = (torch.arange(height, dtype=torch.float32) + 0.5)[:, None]
        source_x, source_y = a * x + b * y + c, d * x + e * y + f
        grid = torch.stack([source_x * (2 / width) - 1, source_y * (2 / height) - 1], dim=-1)
        warped = grid_sample(
            clip.float(),
            grid.expand(length, -1, -1, -1),
            mode=interpolation,
            padding_mode="border",
            align_corners=False,
        )
        warped = warped.round_().clamp_(0, 255).to(torch.uint8)
        outside = (source_x < 0) | (source_x >= width) | (source_y < 0) | (source_y >= height)
        fill = torch.tensor(self.fill, dtype=torch.uint8)[:, None, None]
        return torch.where(outside, fill, warped)


class RandAugment:
    """Apply drawn operations to a clip (T, C, H, W) uint8; returns the same shape and type."""

    def __init__(self, settings: RandAugmentSettings, warper: Warper | None = None):
        """Remember the settings and how to resample."""
        self.settings = settings
        self.warper = warper or Warper()
        self.ops = tuple(INCREASING_OPS if settings.increasing else PLAIN_OPS)

    def __call__(self, clip: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Augment a clip with random numbers from `rng`."""
        for choice in rng.integers(0, len(self.ops), size=self.settings.num_ops):
            if rng.random() < self.settings.probability:
                clip = apply_op(self.ops[choice], clip, self.draw_level(rng), rng, self.warper)
        return clip

    def draw_level(self, rng: np.random.Generator) -> float:
        """Draw a magnitude."""
        level, deviation = self.settings.magnitude, self.settings.magnitude_std
        if deviation > 100:
            level = rng.uniform(0, level)
        elif deviation > 0:
            level = rng.normal(level, deviation)
        return min(max(level, 0.0), self.settings.max_magnitude)


def apply_op(
    name: str, clip: torch.Tensor, level: float, rng: np.random.Generator, warper: Warper | None = None
) -> torch.Tensor:
    """Apply one operation by name at a magnitude (0..10); `rng` decides about its sign.

    Raises:
        KeyError: there is no such operation.
    """
    to_argument, apply = _OPS[name]
    argument = to_argument(level, rng)
    if apply in _GEOMETRIC:
        return (warper or Warper())(clip, apply(argument, clip.shape[-2], clip.shape[-1]), rng)
    return apply(clip, argument)


def _signed(scale: float) -> Callable[[float, np.random.Generator], float]:
    """Scale the magnitude so that 10 becomes `scale`; either sign."""

    def argument(level: float, rng: np.random.Generator) -> float:
        return level / MAX_LEVEL * scale * (-1 if rng.random() < 0.5 else 1)

    return argument


def _nothing(level: float, rng: np.random.Generator) -> None:
    return None


def _factor(level: float, rng: np.random.Generator) -> float:
    return level / MAX_LEVEL * 1.8 + 0.1


def _factor_away_from_one(level: float, rng: np.random.Generator) -> float:
    return max(0.1, 1 + _signed(0.9)(level, rng))


def _bits(level: float, rng: np.random.Generator) -> int:
    return int(level / MAX_LEVEL * 4)


def _fewer_bits(level: float, rng: np.random.Generator) -> int:
    return 4 - _bits(level, rng)


def _threshold(level: float, rng: np.random.Generator) -> int:
    return min(256, int(level / MAX_LEVEL * 256))


def _falling_threshold(level: float, rng: np.random.Generator) -> int:
    return 256 - _threshold(level, rng)


def _added(level: float, rng: np.random.Generator) -> int:
    return min(128, int(level / MAX_LEVEL * 110))


def _shear_x(factor: float, height: int, width: int) -> tuple[float, ...]:
    return 1, factor, 0, 0, 1, 0


def _shear_y(factor: float, height: int, width: int) -> tuple[float, ...]:
    return 1, 0, 0, factor, 1, 0


def _translate_x(share: float, height: int, width: int) -> tuple[float, ...]:
    return 1, 0, share * width, 0, 1, 0


def _translate_y(share: float, height: int, width: int) -> tuple[float, ...]:
    return 1, 0, 0, 0, 1, share * height


def _rotate(degrees: float, height: int, width: int) -> tuple[float, ...]:
    """Turn counter-clockwise about the centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def _auto_contrast(clip: torch.Tensor, _: None) -> torch.Tensor:
    return tvf.autocontrast(clip)


def _equalize(clip: torch.Tensor, _: None) -> torch.Tensor:
    return tvf.equalize(clip)


def _invert(clip: torch.Tensor, _: None) -> torch.Tensor:
    return clip.bitwise_not()


def _posterize(clip: torch.Tensor, bits: int) -> torch.Tensor:
    return clip & (0xFF << (8 - bits) & 0xFF)


def _solarize(clip: torch.Tensor, threshold: int) -> torch.Tensor:
    return clip if threshold > 255 else clip ^ ((clip >= threshold).to(torch.uint8) * 255)


def _solarize_add(clip: torch.Tensor, added: int) -> torch.Tensor:
    # below 128 nothing overflows: at most 127 + 128
    return clip + (clip < 128).to(torch.uint8) * added


_GEOMETRIC = (_shear_x, _shear_y, _translate_x, _translate_y, _rotate)

_OPS = {
    "AutoContrast": (_nothing, _auto_contrast),
    "Equalize": (_nothing, _equalize),
    "Invert": (_nothing, _invert),
    "Rotate": (_signed(30), _rotate),
    "Posterize": (_bits, _posterize),
    "PosterizeIncreasing": (_fewer_bits, _posterize),
    "Solarize": (_threshold, _solarize),
    "SolarizeIncreasing": (_falling_threshold, _solarize),
    "SolarizeAdd": (_added, _solarize_add),
    "Color": (_factor, tvf.adjust_saturation),
    "ColorIncreasing": (_factor_away_from_one, tvf.adjust_saturation),
    "Contrast": (_factor, tvf.adjust_contrast),
    "ContrastIncreasing": (_factor_away_from_one, tvf.adjust_contrast),
    "Brightness": (_factor, tvf.adjust_brightness),
    "BrightnessIncreasing": (_factor_away_from_one, tvf.adjust_brightness),
    "Sharpness": (_factor, tvf.adjust_sharpness),
    "SharpnessIncreasing": (_factor_away_from_one, tvf.adjust_sharpness),
    "ShearX": (_signed(0.3), _shear_x),
    "ShearY": (_signed(0.3), _shear_y),
    "TranslateXRel": (_signed(0.45), _translate_x),
    "TranslateYRel": (_signed(0.45), _translate_y),
}

_COMMON_OPS = ("AutoContrast", "Equalize", "Invert", "Rotate", "SolarizeAdd")
_MOVING_OPS = ("ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
_SCALED_OPS = ("Posterize", "Solarize", "Color", "Contrast", "Brightness", "Sharpness")
PLAIN_OPS = _COMMON_OPS + _SCALED_OPS + _MOVING_OPS
INCREASING_OPS = _COMMON_OPS + tuple(name + "Increasing" for name in _SCALED_OPS) + _MOVING_OPS
