"""Compiled loops over pixels: sizes at the edges, and where they are kept. What they compute: test_randaugment."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datasets.pixels import frames_first, histograms, pixels_first, resample

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 2), (5, 7)])
def test_histograms_count_every_pixel(height, width):
    frames = np.random.default_rng(0).integers(0, 4, size=(2, height, width, 3), dtype=np.uint8)
    expected = [[np.bincount(frame[..., c].ravel(), minlength=256) for c in range(3)] for frame in frames]
    assert np.array_equal(histograms(frames), expected)


def test_pixels_come_back_as_frames_from_any_memory():
    frames = np.random.default_rng(0).integers(0, 256, size=(3, 8, 10, 3), dtype=np.uint8)[:, 1:6, ::2]
    pixels = pixels_first(frames)
    assert pixels.shape == (5, 5, 9) and pixels[2, 4].tolist() == frames[:, 2, 4].ravel().tolist()
    assert np.array_equal(frames_first(pixels), frames)


def test_a_part_that_is_too_small_is_not_left():
    """Whatever is asked for, nothing beyond the given pixels is read."""
    pixels = np.full((2, 2, 3), 7, np.uint8)
    same, fill = (1.0, 0.0, 0.3, 0.0, 1.0, 0.3), np.zeros(3, np.uint8)
    shown = resample(pixels, same, (4, 4, 6, 6), (0, 0, 12, 12), (13, 13), True, fill)
    assert set(shown.ravel().tolist()) <= {6, 7}


def test_without_a_place_to_keep_them_they_are_compiled_all_the_same():
    code = """
import numba
compile = numba.njit
def nowhere(loop, cache=False, **settings):
    if cache:
        raise RuntimeError("cannot cache function: no locator available")
    return compile(loop, **settings)
numba.njit = nowhere
import numpy as np
from datasets.pixels import pixels_first
print(pixels_first(np.ones((1, 2, 2, 3), np.uint8)).sum())
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "12\n"
