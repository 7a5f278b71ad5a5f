"""Where decoded frames are written: to new memory, or to memory that the caller of a reader provides.

The helper of a guard provides what it shares with the process that waits for the frames, which saves a copy of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

Allocate = Callable[[Sequence[int]], np.ndarray]


def _on_heap(shape: Sequence[int]) -> np.ndarray:
    return np.empty(shape, dtype=np.uint8)


_current: Allocate = _on_heap


def allocate(shape: Sequence[int]) -> np.ndarray:
    """Return an array for frames (T, H, W, 3), uint8, whose values are arbitrary."""
    return _current(shape)


@contextmanager
def allocated_by(other: Allocate) -> Iterator[None]:
    """Let `other` allocate the frames that are read meanwhile, in any thread; it may return the same memory twice."""
    global _current
    _current, former = other, _current
    try:
        yield
    finally:
        _current = former
