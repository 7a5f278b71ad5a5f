"""Pixel operations on clips, compiled by Numba because array libraries would need several passes over the memory.

Each is compiled at its first call, in a second or two, and cached on disk for later processes;
`python -m datasets.pixels` (`make setup`) compiles all of them in advance. Clips are uint8 (T, H, W, 3).
"""

from collections.abc import Callable
from functools import cache, partial, wraps

import numpy as np


def _compiled(loop: Callable, fuse: bool = False) -> Callable:
    """Compile `loop` over a clip at its first call, because importing Numba alone takes half a second.

    Args:
        loop: Function of a clip and further arguments.
        fuse: Allow fused multiply-add, which may change the last bit.
    """

    @cache
    def machine_code() -> Callable:
        from numba import njit

        settings = {"nogil": True, "fastmath": {"contract"} if fuse else False}
        try:
            return njit(loop, cache=True, **settings)
        except RuntimeError:  # no writable cache folder: every process compiles for itself
            return njit(loop, **settings)

    @wraps(loop)
    def call(clip: np.ndarray, *arguments):
        return machine_code()(np.ascontiguousarray(clip), *arguments)

    return call


@_compiled
def histograms(frames: np.ndarray) -> np.ndarray:
    """Count how often each value occurs per frame and channel: (T, 3, 256) int64."""
    length, height, width, _ = frames.shape
    counts = np.zeros((length, 3, 256), np.int64)
    for t in range(length):
        # Two sets of counters: neighbours are often equal, and increments of the same counter wait for each other.
        even = np.zeros((3, 256), np.int64)
        odd = np.zeros((3, 256), np.int64)
        for y in range(height):
            for x in range(0, width - 1, 2):
                for c in range(3):
                    even[c, frames[t, y, x, c]] += 1
                    odd[c, frames[t, y, x + 1, c]] += 1
            if width % 2:
                for c in range(3):
                    even[c, frames[t, y, width - 1, c]] += 1
        counts[t] = even + odd
    return counts


@_compiled
def look_up(frames: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Replace each value by its entry in the table of its frame and channel; tables are (T, 3, 256) uint8."""
    out = np.empty_like(frames)
    length, height, width, _ = frames.shape
    for t in range(length):
        red, green, blue = tables[t, 0], tables[t, 1], tables[t, 2]
        for y in range(height):
            for x in range(width):
                out[t, y, x, 0] = red[frames[t, y, x, 0]]
                out[t, y, x, 1] = green[frames[t, y, x, 1]]
                out[t, y, x, 2] = blue[frames[t, y, x, 2]]
    return out


@_compiled
def grey_totals(frames: np.ndarray) -> np.ndarray:
    """Sum the grey levels of each frame, which are rounded as by PIL, from ITU-R 601: (T,) int64."""
    length, height, width, _ = frames.shape
    totals = np.zeros(length, np.int64)
    for t in range(length):
        for y in range(height):
            for x in range(width):
                weighted = np.int32(0x8000)
                weighted += np.int32(19595) * np.int32(frames[t, y, x, 0])
                weighted += np.int32(38470) * np.int32(frames[t, y, x, 1])
                weighted += np.int32(7471) * np.int32(frames[t, y, x, 2])
                totals[t] += weighted >> np.int32(16)
    return totals


@_compiled
def blend_with_grey(frames: np.ndarray, factor: np.float32) -> np.ndarray:
    """Blend between each pixel's grey level (factor 0) and its colour (factor 1), or beyond, clamped to 0..255.

    Grey levels are those of `grey_totals`.
    """
    out = np.empty_like(frames)
    length, height, width, _ = frames.shape
    least, most = np.float32(0), np.float32(255)
    for t in range(length):
        for y in range(height):
            for x in range(width):
                # Written out, because a loop over the colours is slower.
                red, green, blue = frames[t, y, x, 0], frames[t, y, x, 1], frames[t, y, x, 2]
                weighted = np.int32(0x8000)
                weighted += np.int32(19595) * np.int32(red)
                weighted += np.int32(38470) * np.int32(green)
                weighted += np.int32(7471) * np.int32(blue)
                level = weighted >> np.int32(16)
                grey = np.float32(level)
                out[t, y, x, 0] = np.uint8(min(max(grey + factor * np.float32(np.int32(red) - level), least), most))
                out[t, y, x, 1] = np.uint8(min(max(grey + factor * np.float32(np.int32(green) - level), least), most))
                out[t, y, x, 2] = np.uint8(min(max(grey + factor * np.float32(np.int32(blue) - level), least), most))
    return out


@_compiled
def blend_with_smooth(frames: np.ndarray, factor: np.float32) -> np.ndarray:
    """Blend between the smoothed image (factor 0) and the image (factor 1), or beyond; the border does not change.

    Smoothing is a rounded 3 x 3 mean in which the centre has weight 5.
    """
    out = frames.copy()
    length, height, width, _ = frames.shape
    rows = frames.reshape(length, height, 3 * width)
    changed = out.reshape(length, height, 3 * width)
    for t in range(length):
        for y in range(1, height - 1):
            above, row, below = rows[t, y - 1], rows[t, y], rows[t, y + 1]
            # Slices, because indices that may be negative are checked at every step.
            above_next, next_, below_next = above[6:], row[6:], below[6:]
            above_here, here, below_here = above[3:], row[3:], below[3:]
            target = changed[t, y, 3:]
            for x in range(3 * width - 6):
                total = np.int32(above[x]) + np.int32(above_here[x]) + np.int32(above_next[x])
                total += np.int32(row[x]) + np.int32(5) * np.int32(here[x]) + np.int32(next_[x])
                total += np.int32(below[x]) + np.int32(below_here[x]) + np.int32(below_next[x])
                smooth = (np.int32(2) * total + np.int32(13)) * np.int32(40330) >> np.int32(20)  # total / 13, rounded
                value = np.float32(smooth) + factor * np.float32(np.int32(here[x]) - smooth)
                target[x] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))
    return out


@_compiled
def pixels_first(frames: np.ndarray) -> np.ndarray:
    """Put the values of a pixel in all frames next to each other: (T, H, W, 3) -> (H, W, 3 T)."""
    length, height, width, _ = frames.shape
    pixels = np.empty((height, width, 3 * length), np.uint8)
    for y in range(height):
        for t in range(length):
            for x in range(width):
                for c in range(3):
                    pixels[y, x, 3 * t + c] = frames[t, y, x, c]
    return pixels


@_compiled
def frames_first(pixels: np.ndarray) -> np.ndarray:
    """Undo `pixels_first`: (H, W, 3 T) -> (T, H, W, 3)."""
    height, width, values = pixels.shape
    frames = np.empty((values // 3, height, width, 3), np.uint8)
    for y in range(height):
        for t in range(values // 3):
            for x in range(width):
                for c in range(3):
                    frames[t, y, x, c] = pixels[y, x, 3 * t + c]
    return frames


@partial(_compiled, fuse=True)
def resample(
    pixels: np.ndarray,
    matrix: tuple[float, ...],
    source: tuple[int, ...],
    target: tuple[int, ...],
    size: tuple[int, int],
    cubic: bool,
    fill: np.ndarray,
) -> np.ndarray:
    """Resample an image by an affine map, with interpolation, clamped to 0..255.

    Args:
        pixels: (H, W, values) uint8, the required part of the image.
        matrix: (a, b, c, d, e, f); output (x, y) shows input (a x + b y + c, d x + e y + f).
        source: Top, left, bottom, right of `pixels` in the whole image.
        target: Top, left, bottom, right of the result in the whole image.
        size: Height and width of the whole image.
        cubic: Interpolate over 4 x 4 pixels by PIL's kernel, otherwise over 2 x 2.
        fill: (values,) uint8, colour outside of the image.

    Returns:
        (bottom - top, right - left, values) uint8.
    """
    a, b, c, d, e, f = matrix
    values = pixels.shape[2]
    height, width = target[2] - target[0], target[3] - target[1]
    out = np.empty((height, width, values), np.uint8)
    line = np.empty((width, values), np.float32)
    flat = pixels.reshape(-1, values)
    taps = np.ones(2, np.int64)
    places, weights = np.zeros((2, 4), np.int64), np.ones((2, 4), np.float32)
    used, shares = np.zeros(16, np.int64), np.zeros(16, np.float32)
    for row in range(height):
        for column in range(width):
            total = line[column]
            x, y = target[1] + column + 0.5, target[0] + row + 0.5
            shown = d * x + e * y + f, a * x + b * y + c
            if not (0 <= shown[0] < size[0] and 0 <= shown[1] < size[1]):
                total[:] = fill
                continue
            for axis in range(2):
                base = np.floor(shown[axis] - 0.5)
                s = np.float32(shown[axis] - 0.5 - base)
                if s == 0:
                    taps[axis] = 1
                    weights[axis, 0] = 1
                elif cubic:
                    taps[axis] = 4
                    weights[axis, 0] = 2 * s * s - s - s * s * s
                    weights[axis, 1] = 1 - 2 * s * s + s * s * s
                    weights[axis, 2] = s + s * s - s * s * s
                    weights[axis, 3] = s * s * s - s * s
                else:
                    taps[axis] = 2
                    weights[axis, 0] = 1 - s
                    weights[axis, 1] = s
                first = np.int64(base) - (taps[axis] == 4)
                for tap in range(taps[axis]):
                    # Repeat the image's border, and never read outside of `pixels`.
                    place = min(max(first + tap, 0), size[axis] - 1) - source[axis]
                    places[axis, tap] = min(max(place, 0), pixels.shape[axis] - 1)
            count = 0
            shares[:] = 0  # of those that fill up the last four
            for i in range(taps[0]):
                for j in range(taps[1]):
                    used[count] = places[0, i] * pixels.shape[1] + places[1, j]
                    shares[count] = weights[0, i] * weights[1, j]
                    count += 1
            # Integers in exact arithmetic must not end up just below.
            total[:] = np.float32(1e-3)
            for n in range(0, count, 4):  # four pixels for each time that the sums are read and written
                p0, p1, p2, p3 = flat[used[n]], flat[used[n + 1]], flat[used[n + 2]], flat[used[n + 3]]
                s0, s1, s2, s3 = shares[n], shares[n + 1], shares[n + 2], shares[n + 3]
                for k in range(values):
                    half = total[k] + s0 * np.float32(p0[k]) + s1 * np.float32(p1[k])
                    total[k] = half + s2 * np.float32(p2[k]) + s3 * np.float32(p3[k])
        sums, written = line.reshape(-1), out[row].reshape(-1)
        for k in range(sums.size):
            written[k] = np.uint8(min(max(sums[k], np.float32(0)), np.float32(255)))
    return out


def main() -> None:
    """Compile all functions and cache them on disk."""
    clip, size = np.zeros((1, 4, 4, 3), np.uint8), (4, 4)
    histograms(clip)
    look_up(clip, np.zeros((1, 3, 256), np.uint8))
    grey_totals(clip)
    blend_with_grey(clip, np.float32(1))
    blend_with_smooth(clip, np.float32(1))
    picture = pixels_first(clip)
    resample(picture, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0, 0, *size), (0, 0, *size), size, True, np.zeros(3, np.uint8))
    frames_first(picture)


if __name__ == "__main__":
    main()
