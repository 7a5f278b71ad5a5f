"""Drawing moving digits, the demonstrations' data: pictures, paths, clips and video files.

The digits are scikit-learn's, 8 x 8 pixels, enlarged, on a textured background.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

CLASSES = ("left", "right", "up", "down", "clockwise", "anticlockwise", "approaching", "receding")
SPLITS = ("train", "val", "test")
SPLIT_SHARES = (0.7, 0.15, 0.15)
SPEED = (4.5, 6.0)
DIGIT_SIZE = (24.0, 32.0)
SIZE_RANGE = (12.0, 56.0)
CENTRE_RANGE = (8.0, 56.0)  # limits of the centre of a digit, so that most of it is always visible
ORBIT_RADIUS = (16.0, 20.0)
ORBIT_CENTRE = (28.0, 36.0)
REFERENCE_SIZE = 64
FRAME_RATE = 12


def draw_trajectory(
    label: int, num_frames: int, size: int, rng: np.random.Generator, *, speed: float | None = None
) -> np.ndarray:
    """Draw the random path of a digit of class `label`.

    The second class of a pair is a path of the first one played backwards. The start is random among those whose path
    stays in the picture; if the path would be too long for that, the motion is slower. Lengths scale with size / 64.

    Args:
        label: Class of the motion.
        num_frames: Length of the path.
        size: Side of the picture in pixels.
        rng: Random generator.
        speed: Pixels per frame of a picture with a side of 64; None draws it from `SPEED`.

    Returns:
        centre x, centre y and side length in pixels, float (num_frames, 3).
    """
    pair, backwards = divmod(label, 2)
    speed = rng.uniform(*SPEED) if speed is None else speed
    x, y = (np.full(num_frames, rng.uniform(*CENTRE_RANGE)) for _ in "xy")
    side = np.full(num_frames, rng.uniform(*DIGIT_SIZE))
    if pair == 0:
        x = _sweep(CENTRE_RANGE, speed, num_frames, rng)[::-1]
    elif pair == 1:
        y = _sweep(CENTRE_RANGE, speed, num_frames, rng)[::-1]
    elif pair == 2:
        radius = rng.uniform(*ORBIT_RADIUS)
        middle = rng.uniform(*ORBIT_CENTRE, size=2)
        # The y axis points down, so an increasing angle is a clockwise rotation.
        angle = rng.uniform(0, 2 * np.pi) + speed / radius * np.arange(num_frames)
        x, y = middle[0] + radius * np.cos(angle), middle[1] + radius * np.sin(angle)
    else:
        side = _sweep(SIZE_RANGE, speed, num_frames, rng)
    path = np.stack([x, y, side], axis=1) * (size / REFERENCE_SIZE)
    return path[::-1] if backwards else path


def _sweep(bounds: tuple[float, float], speed: float, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return a value that grows by `speed` per frame and stays within `bounds`, float (num_frames,)."""
    low, high = bounds
    travel = min(speed * (num_frames - 1), high - low)
    return rng.uniform(low, high - travel) + np.linspace(0, travel, num_frames)


def draw_background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a dark, coloured texture, uint8 (size, size, 3), from smooth noise at two scales."""
    picture = np.zeros((size, size, 3), dtype=np.float32)
    for cells, strength in ((4, 70), (16, 50)):
        noise = rng.integers(0, strength, size=(cells, cells, 3), dtype=np.uint8)
        picture += np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return picture.astype(np.uint8)


def draw_digit(picture: np.ndarray, layer: Image.Image, colour: np.ndarray) -> np.ndarray:
    """Draw a digit in a colour on a picture (size, size, 3), using the brightness of `layer` as opacity."""
    alpha = np.asarray(layer, dtype=np.float32)[..., None] / 255
    return np.rint(picture * (1 - alpha) + colour * alpha).astype(np.uint8)


def digit_layer(digit: np.ndarray, place: Sequence[float], size: int) -> Image.Image:
    """Place a digit (8, 8) uint8 at `place` (x, y, side) on a black image (size, size), cropping it at the borders.

    The image's `getbbox()` is the box of the pixels that the digit covers: left, top, right, bottom, the last two
    exclusive.
    """
    x, y, side = place
    pixels = max(1, round(side))
    mask = Image.fromarray(digit).resize((pixels, pixels), Image.Resampling.BICUBIC)
    layer = Image.new("L", (size, size))
    layer.paste(mask, (round(x - side / 2), round(y - side / 2)))
    return layer


def draw_clip(
    label: int,
    digits: np.ndarray,
    num_frames: int,
    size: int,
    rng: np.random.Generator,
    *,
    speed: float | None = None,
) -> tuple[np.ndarray, list[tuple[int, int, int, int] | None]]:
    """Draw a clip of class `label` with one of `digits` (n, 8, 8), at the speed of `draw_trajectory`.

    Returns:
        the frames, uint8 (num_frames, size, size, 3); the box of the digit in each (see `digit_layer`), None where no
        pixel of it is visible.
    """
    digit = digits[rng.integers(len(digits))]
    background, colour = draw_background(size, rng), bright_colour(rng)
    trajectory = draw_trajectory(label, num_frames, size, rng, speed=speed)
    layers = [digit_layer(digit, place, size) for place in trajectory]
    return np.stack([draw_digit(background, layer, colour) for layer in layers]), [e.getbbox() for e in layers]


def split_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the digits of a split, uint8 (n, 8, 8), and their numbers (n,); no two splits share an image."""
    pictures, numbers = _all_digits()
    # Independent of the seed of the data set: a test digit never becomes a training digit.
    order = np.random.default_rng(0).permutation(len(pictures))
    borders = np.rint(np.cumsum([0, *SPLIT_SHARES]) * len(order)).astype(int)
    i = SPLITS.index(split)
    chosen = order[borders[i] : borders[i + 1]]
    return pictures[chosen], numbers[chosen]


@lru_cache(maxsize=1)
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # here because it takes seconds to import

    digits: Any = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target


def bright_colour(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour that is brighter than any background: float32 (3,)."""
    return rng.integers(170, 256, size=3).astype(np.float32)


def write_video(path: Path, frames: np.ndarray, rate: int = FRAME_RATE) -> None:
    """Write frames uint8 (T, H, W, 3) as an H.264 file with a single key frame and reproducible bytes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "18", "preset": "veryfast", "bf": "0", "g": str(len(frames))}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def run_all(pool: ProcessPoolExecutor, write: Callable, count: int, progress: tqdm) -> list:
    """Call `write` with the numbers below `count` in a pool; gives the results in their order."""
    results = []
    for result in pool.map(write, range(count), chunksize=16):
        results.append(result)
        progress.update()
    return results
