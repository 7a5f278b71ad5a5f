"""Sliding windows over a video, and the curve of their probabilities.

Symbols: N = frames in the video, W = frames per window, n = number of windows.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from inference.predictor import Score, top_scores


def window_starts(total_frames: int, window: int, stride: int) -> np.ndarray:
    """Return the first frames (n,), int64, of windows `stride` apart, the last of which ends with the video.

    A video shorter than a window gets a single one.

    Args:
        total_frames: N.
        window: W.
        stride: frames between the starts of windows.

    Raises:
        ValueError: a number is below 1.
    """
    if min(total_frames, window, stride) < 1:
        raise ValueError(f"all must be at least 1: {total_frames} frames, window {window}, stride {stride}")
    last = max(0, total_frames - window)
    starts = np.arange(0, last + 1, stride, dtype=np.int64)
    return starts if starts[-1] == last else np.append(starts, last)


@dataclass(frozen=True)
class Curve:
    """Class probabilities over the time of a video.

    Attributes:
        total_frames: N.
        window: W, at most N.
        starts: (n,) first frame of each window.
        probabilities: (n, classes) float32.
        label_names: names of all classes.
        rate: frames per second; None if unknown, and then times are frame numbers.
    """

    total_frames: int
    window: int
    starts: np.ndarray
    probabilities: np.ndarray
    label_names: tuple[str, ...]
    rate: Fraction | None = None

    @property
    def centres(self) -> np.ndarray:
        """The centre of each window in frames, (n,) float."""
        return self.starts + (self.window - 1) / 2

    def leading(self, count: int = 5) -> list[int]:
        """Return the classes with the highest peaks, highest first."""
        return np.argsort(-self.probabilities.max(0), kind="stable")[:count].tolist()

    def seconds(self, frames: float | np.ndarray) -> float | np.ndarray:
        """Convert frame numbers to seconds; without a rate, return them unchanged."""
        return frames / float(self.rate) if self.rate else frames

    def when(self, frame: int) -> str:
        """Format the time of a frame."""
        return f"{self.seconds(frame):.1f} s" if self.rate else f"frame {frame}"

    def at(self, frames: np.ndarray) -> np.ndarray:
        """Interpolate probabilities (frames, classes) at frame numbers, linearly between the windows' centres."""
        places = np.interp(frames, self.centres, np.arange(len(self.starts)))
        before = np.floor(places).astype(np.int64)
        after = np.minimum(before + 1, len(self.starts) - 1)
        share = (places - before)[:, None]
        return (1 - share) * self.probabilities[before] + share * self.probabilities[after]

    def tops(self, count: int = 5) -> list[tuple[int, int, list[Score]]]:
        """Return the first frame, last frame and most probable classes of each window."""
        return [
            (int(start), int(start) + self.window - 1, top_scores(row, self.label_names, count))
            for start, row in zip(self.starts, self.probabilities, strict=True)
        ]
