"""RandAugment on whole clips: the same operations and magnitudes for all frames.

Settings strings are those of timm and VideoMAE, such as `rand-m7-n4-mstd0.5-inc1`: n of fifteen operations are drawn,
each is applied with probability 0.5 at a magnitude drawn from a normal distribution (mean m, standard deviation mstd,
clamped to 0..10). "inc1" uses the variants whose strength increases with the magnitude.

The results equal those of timm's operations on each frame with PIL, except for rounding in the geometric operations
(`datasets.warp`). If only a region of the image is requested, only that region and what it depends on are computed.
RandAugment: Cubuk et al. 2019, arXiv 1909.13719; the argument ranges are timm's.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from datasets.pixels import blend_with_grey, blend_with_smooth, grey_totals, histograms, look_up
from datasets.warp import VIDEO_FILL, AffineMap, Region

MAX_LEVEL = 10.0

Cut = Callable[[np.ndarray], np.ndarray]

_FIELD = re.compile(r"(mstd|mmax|inc|m|n|p)(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class RandAugmentSettings:
    """The values of a settings string."""

    magnitude: float = 10.0
    """m: mean magnitude, 0..10."""
    num_ops: int = 2
    """n: number of operations drawn per clip, with replacement."""
    magnitude_std: float = 0.0
    """mstd: standard deviation of the magnitude; above 100: uniform in 0..m."""
    probability: float = 0.5
    """p: probability that a drawn operation is applied."""
    increasing: bool = False
    """inc: use the variants whose strength increases with the magnitude."""
    max_magnitude: float = MAX_LEVEL
    """mmax: magnitudes are clamped to 0..mmax."""


def parse_randaugment(text: str) -> RandAugmentSettings | None:
    """Parse a settings string; "" and "none" return None (no augmentation).

    Raises:
        ValueError: Part of the string is invalid; the message names it.
    """
    if text.strip().lower() in ("", "none"):
        return None
    head, *fields = text.strip().split("-")
    found = {}
    for field in fields:
        match = _FIELD.fullmatch(field)
        if match is None:
            raise ValueError(
                f'--aa {text}: invalid part "{field}"; '
                "the parts are m, n, mstd, mmax, p and inc, each followed by a number"
            )
        found[match[1]] = float(match[2])
    if head != "rand":
        raise ValueError(f'--aa {text}: expected a string such as rand-m7-n4-mstd0.5-inc1, or "none"')
    return RandAugmentSettings(
        magnitude=found.get("m", 10.0),
        num_ops=int(found.get("n", 2)),
        magnitude_std=found.get("mstd", 0.0),
        probability=found.get("p", 0.5),
        increasing=bool(found.get("inc", 0)),
        max_magnitude=found.get("mmax", MAX_LEVEL),
    )


class RandAugment:
    """Draw and apply operations for a clip.

    Args:
        settings: Values of a settings string.
        interpolation: Interpolation of geometric operations; "random" draws one per operation.
        fill: Colour outside of the image, for geometric operations.
    """

    def __init__(
        self,
        settings: RandAugmentSettings,
        interpolation: str = "bicubic",
        fill: tuple[int, int, int] = VIDEO_FILL,
    ):
        self.settings, self.interpolation, self.fill = settings, interpolation, fill
        self.names = tuple(INCREASING_OPS if settings.increasing else PLAIN_OPS)

    def draw(self, height: int, width: int, rng: np.random.Generator) -> list["Operation"]:
        """Draw the operations for a clip of frames of height x width."""
        operations = []
        for choice in rng.integers(0, len(self.names), size=self.settings.num_ops):
            if rng.random() < self.settings.probability:
                name, level = self.names[choice], self.draw_level(rng)
                operations.append(draw_operation(name, level, height, width, rng, self.interpolation, self.fill))
        return operations

    def draw_level(self, rng: np.random.Generator) -> float:
        """Draw a magnitude."""
        level, deviation = self.settings.magnitude, self.settings.magnitude_std
        if deviation > 100:
            level = rng.uniform(0, level)
        elif deviation > 0:
            level = rng.normal(level, deviation)
        return min(max(level, 0.0), self.settings.max_magnitude)


@dataclass(frozen=True)
class Operation:
    """A drawn operation: an affine map, or a function of frames (T, H, W, 3) uint8 and of a function that crops them.

    It returns the new pixels of the cropped region, which may depend on the whole frames.
    """

    name: str
    function: Callable[[np.ndarray, Cut], np.ndarray] | None = None
    affine: AffineMap | None = None
    margin: int | None = 0
    """Pixels around a region that the result depends on; None: it depends on the whole image."""

    def source(self, target: Region, height: int, width: int) -> Region:
        """Return the region of the input that a region of the result depends on."""
        if self.affine is not None:
            return self.affine.source(target, height, width)
        if self.margin is None:
            return Region(0, 0, height, width)
        return target.grown(self.margin, height, width)

    def apply(self, frames: np.ndarray, source: Region, target: Region, height: int, width: int) -> np.ndarray:
        """Compute the target region from frames (T, h, w, 3) that show the source region."""
        if self.affine is not None:
            return self.affine.apply(frames, source, target, height, width)
        assert self.function is not None  # set for all operations that are not affine
        return self.function(frames, partial(source.cut, part=target))


def apply_operations(frames: np.ndarray, operations: Sequence[Operation], region: Region | None = None) -> np.ndarray:
    """Apply operations in order to frames (T, H, W, 3) uint8; compute the given region of the result, or all."""
    height, width = frames.shape[1:3]
    whole = Region(0, 0, height, width)
    regions = [region or whole]
    for operation in reversed(operations):
        regions.insert(0, operation.source(regions[0], height, width))
    frames = whole.cut(frames, regions[0])
    for operation, source, target in zip(operations, regions, regions[1:], strict=False):
        frames = operation.apply(frames, source, target, height, width)
    return frames


def draw_operation(
    name: str,
    level: float,
    height: int,
    width: int,
    rng: np.random.Generator,
    interpolation: str = "bicubic",
    fill: tuple[int, int, int] = VIDEO_FILL,
) -> Operation:
    """Make the operation of a name at a magnitude (0..10), with a random sign.

    Raises:
        KeyError: There is no such operation.
    """
    to_argument, make = _OPS[name]
    argument = to_argument(level, rng)
    if make in _GEOMETRIC:
        if interpolation == "random":
            interpolation = "bilinear" if rng.random() < 0.5 else "bicubic"
        return Operation(name, affine=AffineMap(make(argument, height, width), interpolation, fill))
    return Operation(name, partial(make, argument), margin=_MARGINS.get(make, 0))


def _signed(scale: float) -> Callable[[float, np.random.Generator], float]:
    """Scale the magnitude so that 10 becomes `scale`, with a random sign."""

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
    """Rotate counter-clockwise about the centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def _by_table(pixels: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Look up values in one table for all (256,), per frame (T, 1, 256), or per frame and channel (T, 3, 256)."""
    tables = np.broadcast_to(table, (len(pixels), 3, 256))
    return look_up(pixels, np.ascontiguousarray(tables, dtype=np.uint8))


def _auto_contrast(_: None, frames: np.ndarray, cut: Cut) -> np.ndarray:
    """Stretch each channel so that its darkest value becomes 0 and its brightest 255."""
    rows = frames.reshape(*frames.shape[:2], -1)  # NumPy compares whole rows at once
    darkest, brightest = (
        extreme(extreme(rows, axis=1).reshape(len(frames), -1, 3), axis=1).astype(int)[..., None]
        for extreme in (np.min, np.max)
    )
    scale = 255.0 / np.maximum(brightest - darkest, 1)
    stretched = np.clip((_LEVELS * scale - darkest * scale).astype(int), 0, 255)
    return _by_table(cut(frames), np.where(brightest > darkest, stretched, _LEVELS))


def _equalize(_: None, frames: np.ndarray, cut: Cut) -> np.ndarray:
    """Equalise each channel's histogram."""
    counts = histograms(frames)
    brightest = 255 - (counts[..., ::-1] > 0).argmax(axis=-1)[..., None]
    step = (counts.sum(axis=-1, keepdims=True) - np.take_along_axis(counts, brightest, axis=-1)) // 255
    below = np.cumsum(counts, axis=-1) - counts
    spread = np.minimum((step // 2 + below) // np.maximum(step, 1), 255)
    return _by_table(cut(frames), np.where(step > 0, spread, _LEVELS))


def _invert(_: None, frames: np.ndarray, cut: Cut) -> np.ndarray:
    return ~cut(frames)


def _posterize(bits: int, frames: np.ndarray, cut: Cut) -> np.ndarray:
    return cut(frames) & np.uint8(0xFF << (8 - bits) & 0xFF)


def _solarize(threshold: int, frames: np.ndarray, cut: Cut) -> np.ndarray:
    return _by_table(cut(frames), np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def _solarize_add(added: int, frames: np.ndarray, cut: Cut) -> np.ndarray:
    return _by_table(cut(frames), np.where(_LEVELS < 128, np.minimum(255, _LEVELS + added), _LEVELS))


def _color(factor: float, frames: np.ndarray, cut: Cut) -> np.ndarray:
    return blend_with_grey(cut(frames), np.float32(factor))


def _contrast(factor: float, frames: np.ndarray, cut: Cut) -> np.ndarray:
    means = (grey_totals(frames) / math.prod(frames.shape[1:3]) + 0.5).astype(int)
    return _by_table(cut(frames), np.stack([_blended(mean, factor) for mean in means])[:, None])


def _brightness(factor: float, frames: np.ndarray, cut: Cut) -> np.ndarray:
    return _by_table(cut(frames), _blended(0, factor))


def _sharpness(factor: float, frames: np.ndarray, cut: Cut) -> np.ndarray:
    return cut(blend_with_smooth(frames, np.float32(factor)))


def _blended(level: int, factor: float) -> np.ndarray:
    """Table that blends all values with one grey level, as PIL's enhancers do: (256,) uint8."""
    ramp = Image.fromarray(_LEVELS.astype(np.uint8)[None])
    return np.asarray(Image.blend(Image.new("L", ramp.size, int(level)), ramp, factor))[0]


_LEVELS = np.arange(256)
_MARGINS = {_auto_contrast: None, _equalize: None, _contrast: None, _sharpness: 1}
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
    "Color": (_factor, _color),
    "ColorIncreasing": (_factor_away_from_one, _color),
    "Contrast": (_factor, _contrast),
    "ContrastIncreasing": (_factor_away_from_one, _contrast),
    "Brightness": (_factor, _brightness),
    "BrightnessIncreasing": (_factor_away_from_one, _brightness),
    "Sharpness": (_factor, _sharpness),
    "SharpnessIncreasing": (_factor_away_from_one, _sharpness),
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
