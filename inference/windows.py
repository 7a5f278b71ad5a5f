"""Windows over a long video, and the curve of probabilities that they give: pure functions, no file is opened here.

Symbols: N = frames in the video, W = frames of a window, s = stride, n = number of windows.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from inference.predictor import Score, top_scores


def window_starts(total_frames: int, window: int, stride: int) -> np.ndarray:
    """First frames of windows of `window` frames, `stride` apart, the last one ending with the video: (n,) int64.

    A video shorter than a window has a single one, from 0.

    Raises:
        ValueError: a number below 1.
    """
    if min(total_frames, window, stride) < 1:
        raise ValueError(f"need at least 1 each: {total_frames} frames, window {window}, stride {stride}")
    last = max(0, total_frames - window)
    starts = np.arange(0, last + 1, stride, dtype=np.int64)
    return starts if starts[-1] == last else np.append(starts, last)


@dataclass(frozen=True)
class Curve:
    """Class probabilities over the time of a video.

    Attributes:
        total_frames: N. window: W, at most N. starts: (n,) first frame of each window.
        probabilities: (n, classes) float32. label_names: of all classes.
        rate: frames a second; None where nobody tells, and then time is told in frames.
    """

    total_frames: int
    window: int
    starts: np.ndarray
    probabilities: np.ndarray
    label_names: tuple[str, ...]
    rate: Fraction | None = None

    @property
    def centres(self) -> np.ndarray:
        """The middle of each window in frames: (n,) float."""
        return self.starts + (self.window - 1) / 2

    def leading(self, count: int = 5) -> list[int]:
        """The classes of the highest peaks, the highest first."""
        return np.argsort(-self.probabilities.max(0), kind="stable")[:count].tolist()

    def seconds(self, frames: float | np.ndarray) -> float | np.ndarray:
        """The times of frame numbers from the first frame on; the numbers themselves where there is no rate."""
        return frames / float(self.rate) if self.rate else frames

    def when(self, frame: int) -> str:
        """The time of a frame in words."""
        return f"{self.seconds(frame):.1f} s" if self.rate else f"frame {frame}"

    def at(self, frames: np.ndarray) -> np.ndarray:
        """Probabilities (frames, classes) at frame numbers: linear between centres, constant outside of them."""
        places = np.interp(frames, self.centres, np.arange(len(self.starts)))
        before = np.floor(places).astype(np.int64)
        after = np.minimum(before + 1, len(self.starts) - 1)
        share = (places - before)[:, None]
        return (1 - share) * self.probabilities[before] + share * self.probabilities[after]

    def tops(self, count: int = 5) -> list[tuple[int, int, list[Score]]]:
        """Each window's first frame, last frame and most probable classes."""
        return [
            (int(start), int(start) + self.window - 1, top_scores(row, self.label_names, count))
            for start, row in zip(self.starts, self.probabilities, strict=True)
        ]
