"""Box arithmetic on arrays (n, 4) of x1, y1, x2, y2 in continuous coordinates: a width is x2 - x1.

Boxes are fractions of the frame, or in pixels, where pixel i extends from i to i + 1.
"""

import numpy as np

JITTER = np.array([[-0.2, -0.1, -0.1, -0.05], [0.1, 0.05, 0.2, 0.1]])
"""Lowest and highest shift of each edge in training, as fractions of the box's width or height (VideoMAE, AVA)."""
ENLARGED = JITTER.mean(axis=0)
"""Mean shift, by which boxes are enlarged in evaluation."""


def sides(boxes: np.ndarray) -> np.ndarray:
    """Return the width and height of boxes (n, 4): (n, 2)."""
    return boxes[:, 2:] - boxes[:, :2]


def scale(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Multiply boxes by a width and a height."""
    return boxes * (width, height, width, height)


def shift(boxes: np.ndarray, left: float, top: float) -> np.ndarray:
    """Convert boxes to the coordinates of a crop with the upper left corner (left, top)."""
    return boxes - (left, top, left, top)


def flip(boxes: np.ndarray, width: float) -> np.ndarray:
    """Flip boxes horizontally in a frame of the given width."""
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def clamp(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Clip boxes to a frame; boxes outside of it become empty."""
    return np.clip(boxes, 0, (width, height, width, height))


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU of boxes (n, 4) and others (m, 4) as (n, m); 0 if both are empty."""
    corners = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - np.maximum(boxes[:, None, :2], others[None, :, :2])
    shared = np.clip(corners, 0, None).prod(axis=2)
    areas = sides(boxes).prod(axis=1)[:, None] + sides(others).prod(axis=1)[None]
    return shared / np.maximum(areas - shared, np.finfo(np.float64).tiny)


def jitter(boxes: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Shift each edge of boxes (fractions of the frame) at random, and clip them to the frame."""
    return _move_edges(boxes, strength * rng.uniform(*JITTER, size=boxes.shape))


def enlarge(boxes: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Enlarge boxes (fractions of the frame) by the mean of `jitter`, and clip them to the frame."""
    return _move_edges(boxes, strength * ENLARGED)


def _move_edges(boxes: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Shift edges by fractions of the boxes' sides."""
    return clamp(boxes + by * np.tile(sides(boxes), 2), 1.0, 1.0)
