"""Geometric operations on clips: resample all frames at once by an affine map.

The map is the same for every frame, so the values of a pixel in all frames and channels are resampled together.
Conventions and coefficients are those of PIL's `transform`, which the published augmentation calls: pixel centres at
half integers, a repeated border for interpolation, a fill colour outside of the image, a cubic kernel with a = -1,
and results truncated to integers.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from datasets.pixels import frames_first, pixels_first, resample

VIDEO_FILL = (128, 128, 128)
INTERPOLATIONS = ("bilinear", "bicubic", "random")


class Region(NamedTuple):
    """Region of an image: rows top to bottom and columns left to right, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, margin: int, height: int, width: int) -> "Region":
        """Add a margin on all sides, within an image of `height` x `width`."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        return Region(top, left, min(height, self.bottom + margin), min(width, self.right + margin))

    def cut(self, frames: np.ndarray, part: "Region") -> np.ndarray:
        """Crop the region `part` of the image from frames (T, H, W, 3) that show this region."""
        rows = slice(part.top - self.top, part.bottom - self.top)
        return frames[:, rows, part.left - self.left : part.right - self.left]


@dataclass(frozen=True)
class AffineMap:
    """Output (x, y) shows input (a x + b y + c, d x + e y + f); interpolated as "bilinear" or "bicubic"."""

    matrix: tuple[float, float, float, float, float, float]
    interpolation: str = "bicubic"
    fill: tuple[int, int, int] = VIDEO_FILL

    def source(self, target: Region, height: int, width: int) -> Region:
        """Return the region of the input that the target region shows, at least one pixel."""
        a, b, c, d, e, f = self.matrix
        corners = [(x, y) for x in (target.left, target.right) for y in (target.top, target.bottom)]
        rows = sorted(min(max(d * x + e * y + f, 0), height - 1) for x, y in corners)
        columns = sorted(min(max(a * x + b * y + c, 0), width - 1) for x, y in corners)
        tight = Region(int(rows[0]), int(columns[0]), math.ceil(rows[-1]) + 1, math.ceil(columns[-1]) + 1)
        return tight.grown(2, height, width)

    def apply(self, frames: np.ndarray, source: Region, target: Region, height: int, width: int) -> np.ndarray:
        """Resample frames (T, h, w, 3) uint8, the source region of images of height x width, to the target region."""
        fill = np.tile(np.array(self.fill, np.uint8), len(frames))
        matrix, cubic = tuple(map(float, self.matrix)), self.interpolation == "bicubic"
        warped = resample(pixels_first(frames), matrix, tuple(source), tuple(target), (height, width), cubic, fill)
        return frames_first(warped)
