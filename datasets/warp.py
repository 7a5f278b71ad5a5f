"""Geometric operations on clips: pictures resampled through an affine map, all frames by one sparse product.

The map is the same for every frame, so a pixel's row of values over frames and channels (3 T of them) is resampled at
once: output rows are weighted sums of input rows, which is what an embedding bag computes. That makes a clip several
times faster than its frames one by one. Conventions and coefficients are PIL's, whose `transform` the published
augmentation calls: pixel centres at half integers, the border repeated for interpolation, a fill colour outside of the
picture, cubic kernel with a = -1, results cut off to whole numbers.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import embedding_bag

VIDEO_FILL = (128, 128, 128)
INTERPOLATIONS = ("bilinear", "bicubic", "random")


class Region(NamedTuple):
    """Part of a picture: rows top to bottom, columns left to right, without the last of each."""

    top: int
    left: int
    bottom: int
    right: int

    def grown(self, margin: int, height: int, width: int) -> "Region":
        """Add a margin on all sides, as far as there is a picture of `height` x `width`."""
        top, left = max(0, self.top - margin), max(0, self.left - margin)
        return Region(top, left, min(height, self.bottom + margin), min(width, self.right + margin))

    def cut(self, frames: np.ndarray, part: "Region") -> np.ndarray:
        """Cut `part` of the picture out of frames (T, H, W, 3) that show this region."""
        rows = slice(part.top - self.top, part.bottom - self.top)
        return frames[:, rows, part.left - self.left : part.right - self.left]


@dataclass(frozen=True)
class AffineMap:
    """Output (x, y) shows input (a x + b y + c, d x + e y + f); interpolated as "bilinear" or "bicubic"."""

    matrix: tuple[float, float, float, float, float, float]
    interpolation: str = "bicubic"
    fill: tuple[int, int, int] = VIDEO_FILL

    def source(self, target: Region, height: int, width: int) -> Region:
        """Which part of the input picture the target region shows, at least one pixel."""
        a, b, c, d, e, f = self.matrix
        corners = [(x, y) for x in (target.left, target.right) for y in (target.top, target.bottom)]
        rows = sorted(min(max(d * x + e * y + f, 0), height - 1) for x, y in corners)
        columns = sorted(min(max(a * x + b * y + c, 0), width - 1) for x, y in corners)
        tight = Region(int(rows[0]), int(columns[0]), math.ceil(rows[-1]) + 1, math.ceil(columns[-1]) + 1)
        return tight.grown(2, height, width)

    def apply(self, frames: np.ndarray, source: Region, target: Region, height: int, width: int) -> np.ndarray:
        """Resample frames (T, h, w, 3) uint8, the source region of pictures height x width, to the target region."""
        length, rows, columns, channels = frames.shape
        a, b, c, d, e, f = self.matrix
        x = np.arange(target.left, target.right) + 0.5
        y = (np.arange(target.top, target.bottom) + 0.5)[:, None]
        source_x, source_y = a * x + b * y + c, d * x + e * y + f
        outside = (source_x < 0) | (source_x >= width) | (source_y < 0) | (source_y >= height)
        x_taps, x_weights = self._taps(source_x, source.left, source.right, width)
        y_taps, y_weights = self._taps(source_y, source.top, source.bottom, height)
        places = y_taps[..., :, None] * columns + x_taps[..., None, :]
        weights = y_weights[..., :, None] * x_weights[..., None, :]
        table = _pixels_first(frames).reshape(rows * columns, length * channels)
        values = embedding_bag(
            torch.from_numpy(places.reshape(outside.size, -1)),
            torch.from_numpy(table).float(),
            mode="sum",
            per_sample_weights=torch.from_numpy(weights.reshape(outside.size, -1)),
        )
        # what would be a whole number in exact arithmetic must not fall just below it
        warped = values.add_(1e-3).clamp_(0, 255).to(torch.uint8).numpy().reshape(*outside.shape, length, channels)
        warped[outside] = self.fill
        return _frames_first(warped)

    def _taps(self, position: np.ndarray, first: int, last: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Places, counted from `first`, and weights of the pixels about each position: two arrays (..., taps)."""
        position = position - 0.5
        base = np.floor(position)
        step = (position - base).astype(np.float32)
        if not step.any():
            offsets, weights = np.zeros(1), np.ones((*position.shape, 1), np.float32)
        elif self.interpolation == "bilinear":
            offsets, weights = np.arange(2), np.stack([1 - step, step], axis=-1)
        else:
            square, cube = step**2, step**3
            offsets = np.arange(-1, 3)
            parts = [2 * square - step - cube, 1 - 2 * square + cube, step + square - cube, cube - square]
            weights = np.stack(parts, axis=-1)
        places = base.astype(np.int32)[..., None] + offsets.astype(np.int32)
        # the border is repeated; of what shows the outside, any place in reach will do
        return np.clip(np.clip(places, 0, size - 1), first, last - 1) - np.int32(first), weights


def _pixels_first(frames: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) -> (H, W, T, 3), pixels moved as wholes, which is faster than byte by byte."""
    pixels = np.ascontiguousarray(frames).view("V3")[..., 0]
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)).view(np.uint8).reshape(*pixels.shape[1:], -1, 3)


def _frames_first(pixels: np.ndarray) -> np.ndarray:
    """(H, W, T, 3) -> (T, H, W, 3)."""
    wholes = pixels.view("V3")[..., 0]
    return np.ascontiguousarray(wholes.transpose(2, 0, 1)).view(np.uint8).reshape(-1, *wholes.shape[:2], 3)
