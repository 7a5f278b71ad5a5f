"""Films of a digit that shows three motions, far apart; the class of a film is the order of its motions."""

from itertools import permutations

import numpy as np

from datasets.preparation.moving_digits import (
    CLASSES,
    bright_colour,
    digit_layer,
    draw_background,
    draw_digit,
    draw_trajectory,
    split_digits,
)

MOTIONS = tuple(CLASSES.index(name) for name in ("left", "up", "clockwise"))
ORDERS = tuple(permutations(MOTIONS))
"""The motions of each class, in their order."""
SHOWN, JITTER = 1 / 6, 1 / 30
"""Length of a motion, and the most that it is shifted from the middle of its third, as shares of the film."""
PATH = 48
"""Length of a motion's path, at most, in pixels of a picture with a side of 64."""


def draw_film(split: str, num_frames: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Draw a film: a background, and a digit that is visible while it moves.

    Args:
        split: Whose digits are drawn.
        num_frames: Length of the film.
        size: Side of the picture in pixels.
        rng: Random generator.

    Returns:
        frames, uint8 (num_frames, size, size, 3), and the class, an index of `ORDERS`.
    """
    label = int(rng.integers(len(ORDERS)))
    digits = split_digits(split)[0]
    digit, colour = digits[rng.integers(len(digits))], bright_colour(rng)
    frames = np.repeat(draw_background(size, rng)[None], num_frames, axis=0)
    length = round(SHOWN * num_frames)
    for third, motion in enumerate(ORDERS[label]):
        middle = (third + 0.5) / 3 + rng.uniform(-JITTER, JITTER)
        start = round(middle * num_frames - length / 2)
        for step, place in enumerate(draw_trajectory(motion, length, size, rng, speed=PATH / length)):
            frames[start + step] = draw_digit(frames[start + step], digit_layer(digit, place, size), colour)
    return frames, label
