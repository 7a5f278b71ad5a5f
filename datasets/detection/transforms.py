"""Transforms of a clip together with its boxes: resizing, cropping and flipping.

Frames are uint8 (T, H, W, 3), boxes are fractions of the frame. Normalisation follows in `datasets.transforms.finish`.
The ranges are those of SlowFast (short side, crop, flip) and VideoMAE (jitter of boxes) for AVA.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from datasets.detection import boxes as box
from datasets.transforms import ResizeToCover, to_clip

LEAST_VISIBLE = 1.0
"""Pixels of a box, in width and in height, that must be visible in a crop."""


class Transformed(NamedTuple):
    """A clip with its boxes.

    Attributes:
        clip: uint8 (T, C, H, W).
        boxes: (k, 4) float64, in pixels of the clip.
        kept: (k,) int64, indices of these boxes among the given ones.
        redrawn: Whether the first crop contained no box, so that another one was drawn.
    """

    clip: Tensor
    boxes: np.ndarray
    kept: np.ndarray
    redrawn: bool = False


@dataclass(frozen=True)
class RandomView:
    """Training transform: box jitter, random resizing of the short side, random square crop, random horizontal flip.

    The reciprocal of the short side is drawn uniformly. Boxes are clipped to the crop; those outside of it are dropped
    (SlowFast keeps empty boxes in the loss). If no box is left, another crop that contains the centre of one of the
    boxes is drawn.
    """

    size: int
    short_side: tuple[int, int]
    hflip: float
    jitter: float

    def __call__(self, frames: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> Transformed:
        """Transform a clip and its boxes (n, 4) with n > 0."""
        jittered = box.jitter(boxes, rng, self.jitter)
        short = round(1 / rng.uniform(1 / self.short_side[1], 1 / self.short_side[0]))
        clip = ResizeToCover(short)(to_clip(frames), rng)
        height, width = clip.shape[-2:]
        jittered = box.scale(jittered, width, height)
        left, top = (int(rng.integers(0, side - self.size + 1)) for side in (width, height))
        cropped, kept = self._crop(jittered, left, top)
        redrawn = len(kept) == 0
        if redrawn:
            x1, y1, x2, y2 = jittered[rng.integers(len(jittered))]
            left = self._offset_around((x1 + x2) / 2, width, rng)
            top = self._offset_around((y1 + y2) / 2, height, rng)
            cropped, kept = self._crop(jittered, left, top)
        clip = clip[..., top : top + self.size, left : left + self.size]
        if rng.random() < self.hflip:
            clip, cropped = clip.flip(-1), box.flip(cropped, self.size)
        return Transformed(clip, cropped, kept, redrawn)

    def _crop(self, boxes: np.ndarray, left: int, top: int) -> tuple[np.ndarray, np.ndarray]:
        """Clip boxes to a crop; return the visible ones and their indices."""
        cropped = box.clamp(box.shift(boxes, left, top), self.size, self.size)
        # Half of a tiny box is enough, so that a crop that contains its centre always keeps it.
        shown = box.sides(cropped) >= np.minimum(LEAST_VISIBLE, box.sides(boxes) / 2 - 1e-9)
        kept = np.flatnonzero(shown.all(axis=1))
        return cropped[kept], kept

    def _offset_around(self, centre: float, side: int, rng: np.random.Generator) -> int:
        """Draw the offset of a crop that contains `centre`, along one side of the frame."""
        lowest = max(0, int(np.ceil(centre)) - self.size)
        highest = min(side - self.size, int(centre))
        return int(rng.integers(lowest, highest + 1))


@dataclass(frozen=True)
class WholePicture:
    """Evaluation transform: resize the whole frame to a fixed short side, with both sides multiples of the patch size.

    Boxes are enlarged by the mean of the jitter in training.
    """

    short_side: int
    patch: int
    jitter: float

    def __call__(self, frames: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> Transformed:
        """Transform a clip and its boxes (n, 4); `rng` is not used."""
        height, width = self.shape_of(*frames.shape[1:3])
        enlarged = box.scale(box.enlarge(boxes, self.jitter), width, height)
        clip = tvf.resize(to_clip(frames), [height, width], antialias=False)
        return Transformed(clip, enlarged, np.arange(len(boxes)))

    def shape_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width to which a frame is resized."""
        short = min(height, width)
        height, width = (
            max(1, round(self.short_side * side / short / self.patch)) * self.patch for side in (height, width)
        )
        return height, width
