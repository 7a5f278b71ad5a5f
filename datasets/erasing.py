"""Random erasing (Zhong et al. 2017) in two steps: draw boxes during augmentation, fill them later.

The drawn boxes are passed on with the clip as numbers, so that they can be filled on another device for a whole batch.
"""

import math

import numpy as np
import torch

MODES = ("pixel", "rand", "const")
COLUMNS = 6  # per box: top, left, height, width, index in MODES, seed of its noise


class RandomErasing:
    """Draw boxes to erase, the same ones in all frames of a clip.

    Each box has an area of 0.02 to 1/3 of the image divided by the number of boxes, and an aspect ratio of 0.3 to
    1/0.3.

    Args:
        probability: Probability that a clip is erased at all.
        mode: "pixel" fills a box with normal noise, "rand" with one normally distributed colour, "const" with 0.
        max_count: Maximum number of boxes; all numbers from 1 are equally likely.
    """

    def __init__(self, probability: float, mode: str = "pixel", max_count: int = 1):
        if mode not in MODES:
            raise ValueError(f'--remode must be one of {", ".join(MODES)}, not "{mode}"')
        self.probability, self.mode, self.max_count = probability, mode, max_count

    def draw(self, height: int, width: int, rng: np.random.Generator) -> torch.Tensor:
        """Draw the boxes of a clip of height x width: int64 (max_count, COLUMNS), unused rows are zero."""
        boxes = torch.zeros((self.max_count, COLUMNS), dtype=torch.int64)
        if rng.random() < self.probability:
            count = int(rng.integers(1, self.max_count + 1))
            for i in range(count):
                box = self._draw_box(height, width, count, rng)
                if box is not None:
                    boxes[i] = torch.tensor([*box, MODES.index(self.mode), int(rng.integers(2**32))])
        return boxes

    def _draw_box(self, height: int, width: int, count: int, rng: np.random.Generator):
        for _ in range(10):
            area = rng.uniform(0.02, 1 / 3) * height * width / count
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
        return None


def erase(clip: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Fill the boxes of a normalised clip in place, in order.

    The noise depends only on a box's seed and the type of device: a GPU draws different numbers than a CPU.

    Args:
        clip: (C, T, H, W), on any device.
        boxes: (count, COLUMNS), on the CPU, where they are read.
    """
    for top, left, height, width, mode, seed in boxes.tolist():
        if height and width:
            target = clip[..., top : top + height, left : left + width]
            target.copy_(_noise(target, MODES[mode], seed))
    return clip


def _noise(target: torch.Tensor, mode: str, seed: int) -> torch.Tensor:
    if mode == "const":
        return target.new_zeros(())
    shape = target.shape if mode == "pixel" else (len(target), 1, 1, 1)
    # A separate generator: the global one must stay unchanged, and the noise must depend only on the seed.
    generator = torch.Generator(target.device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=target.device)
