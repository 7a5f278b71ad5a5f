"""Following a video from its first frame to its last, window by window, in memory that its length does not change."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch

from datasets.readers import FrameReader, frame_rate
from inference.heatmaps import HeatTrack, explain_windows, join_windows
from inference.predictor import Predictor, ScoresNotFiniteError
from inference.windows import Curve, window_starts

FRAMES_PER_READ = 64  # bounds the decoded pictures in memory; neighbouring windows share theirs


class Timeline(NamedTuple):
    """What the model says over the time of a video, and, where it was asked for, on what that rests."""

    curve: Curve
    heat: HeatTrack | None


def follow(
    predictor: Predictor,
    reader: FrameReader,
    *,
    window: int = 0,
    stride: int = 0,
    explain: bool = False,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Timeline:
    """The probabilities in a window that slides over the video.

    Each window is read as the test reads a video of that many frames with one segment, in all of the test's crops.

    Args:
        reader: of the video, as `predictor.open` gives.
        window: W in frames; 0 for what a clip of the model spans. A shorter video is one window.
        stride: in frames; 0 for a quarter of the window.
        explain: find the relevance of every token for the most probable class of its window, too.
        progress: wraps the list of steps, for a progress bar.

    Raises:
        UnreadableVideoError: frames do not decode.
        ScoresNotFiniteError: the scores of a window are no numbers.
        ValueError: a negative window or stride.
    """
    total = len(reader)
    window = min(window or predictor.span, total)
    starts = window_starts(total, window, stride or max(1, window // 4))
    frames_of_clip = predictor.plan.clip_shape[1]
    windows_per_read = max(1, FRAMES_PER_READ // frames_of_clip)
    parts = [starts[i : i + windows_per_read] for i in range(0, len(starts), windows_per_read)]
    rows, relevance = [], []
    for part in progress(parts):
        clips, frames = read_windows(predictor, reader, part, window)
        rows.append(predictor.probabilities(clips))
        if not np.isfinite(rows[-1]).all():
            raise ScoresNotFiniteError
        if explain:
            relevance.append(explain_windows(predictor, clips, frames, rows[-1].argmax(1)))
    curve = Curve(total, window, starts, np.concatenate(rows), predictor.label_names, frame_rate(reader))
    return Timeline(curve, join_windows(relevance) if explain else None)


def read_windows(
    predictor: Predictor, reader: FrameReader, starts: np.ndarray, window: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Clips of windows that start at `starts` (n,): float32 (n, crops, C, T, H, W), and their frames (n, T)."""
    sampled = predictor.plan.sample(window, mode="test", segment=0, num_segments=1)
    wanted = starts[:, None] + sampled
    frames = reader.read(wanted.reshape(-1))
    clips = frames.reshape(*wanted.shape, *frames.shape[1:])
    rng = np.random.default_rng(0)
    return torch.stack([predictor.plan.transform(clip, rng) for clip in clips]), wanted
