"""Prediction of a video window by window, with memory use that does not depend on its length."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch

from datasets.readers import FrameReader, frame_rate
from inference.heatmaps import HeatTrack, explain_windows, join_windows
from inference.predictor import Predictor, ScoresNotFiniteError
from inference.windows import Curve, window_starts

FRAMES_PER_READ = 64  # limits the decoded frames in memory; neighbouring windows are read together


class Timeline(NamedTuple):
    """Predictions over the time of a video, and the heat maps of their relevance if requested."""

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
    """Predict the probabilities in a window that slides over the video.

    Each window is read like a video of that length in the test, with one segment and all crops.

    Args:
        predictor: The model.
        reader: Reader of the video, from `predictor.open`.
        window: Frames per window; 0 for the span of a clip of the model. A shorter video is a single window.
        stride: Frames between windows; 0 for a quarter of the window.
        explain: Also compute the relevance of every token for the most probable class of its window.
        progress: Wraps the list of steps in a progress bar.

    Raises:
        UnreadableVideoError: Frames cannot be decoded.
        ScoresNotFiniteError: The scores of a window are not finite.
        ValueError: Window or stride is negative.
    """
    total = len(reader)
    window = min(window or predictor.span, total)
    starts = window_starts(total, window, stride or max(1, window // 4))
    rows, relevance = [], []
    for part in progress(windows_read_together(predictor, starts)):
        clips, frames = read_windows(predictor, reader, part, window)
        rows.append(predictor.probabilities(clips))
        if not np.isfinite(rows[-1]).all():
            raise ScoresNotFiniteError
        if explain:
            relevance.append(explain_windows(predictor, clips, frames, rows[-1].argmax(1)))
    curve = Curve(total, window, starts, np.concatenate(rows), predictor.label_names, frame_rate(reader))
    return Timeline(curve, join_windows(relevance) if explain else None)


def windows_read_together(predictor: Predictor, starts: np.ndarray) -> list[np.ndarray]:
    """Split the first frames of windows (n,) into parts whose frames fit into memory together."""
    count = max(1, FRAMES_PER_READ // predictor.plan.clip_shape[1])
    return [starts[i : i + count] for i in range(0, len(starts), count)]


def read_windows(
    predictor: Predictor, reader: FrameReader, starts: np.ndarray, window: int
) -> tuple[torch.Tensor, np.ndarray]:
    """Read windows that start at `starts` (n,).

    Returns:
        Their clips, float32 (n, crops, C, T, H, W), and frame numbers (n, T).
    """
    sampled = predictor.plan.sample(window, mode="test", segment=0, num_segments=1)
    wanted = starts[:, None] + sampled
    frames = reader.read(wanted.reshape(-1))
    clips = frames.reshape(*wanted.shape, *frames.shape[1:])
    rng = np.random.default_rng(0)
    return torch.stack([predictor.plan.transform(clip, rng) for clip in clips]), wanted
