"""Frame sampling: which frames of a video make up a clip. Pure functions that open no file.

Three kinds of sampling, which yield the same frames as the published data sets:

- dense:   `clip_len` frames about `sampling_rate` apart, from a short window of the video (Kinetics);
- sparse:  one frame from each of `clip_len` pieces of the whole video, with rounded borders (Kinetics_sparse,
           Breakfast, COIN);
- uniform: one frame from each of `clip_len` equal segments of the whole video (Something-Something V2, TSN sampling).

Symbols: N = frames in the video, T = clip_len, r = sampling_rate, S = num_segments, k = segment.
All functions return T 0-based frame numbers in [0, N) as a numpy int64 array. Mode "train" draws from `rng`,
"validation" uses the middle of the video, "test" the k-th of S clips (the middle if S = 1).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.flag_types import non_negative, positive, positive_fraction, positive_int
from common.frame_size import FrameSize, StoreSize, shorter
from common.settings import as_typed, option

Mode = Literal["train", "validation", "test"]


def dense_indices(
    total_frames: int,
    clip_len: int,
    sampling_rate: int,
    *,
    mode: Mode,
    segment: int = 0,
    num_segments: int = 1,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Sample T frames spread over about T * r consecutive frames.

    Training spaces the T frames evenly over a random window of T * r frames; validation uses the window in the
    middle. A test clip uses a step of exactly r from one of S starts spread over the video. If the video is shorter
    than the window, it is read from the start and its last frame is repeated.

    Args:
        total_frames: N, at least 1.
        clip_len: T.
        sampling_rate: r, in frames.
        mode: "train", "validation" or "test".
        segment: k, 0-based, for mode "test".
        num_segments: S, for mode "test".
        rng: Required in mode "train".

    Returns:
        (T,) int64 frame numbers.

    Raises:
        ValueError: A count is not positive, the segment does not exist, or `rng` is missing in training.
    """
    _check(total_frames, clip_len, mode, segment, num_segments, rng)
    if sampling_rate < 1:
        raise ValueError(f"sampling_rate must be at least 1, not {sampling_rate}")
    window = clip_len * sampling_rate
    spare = max(total_frames - window, 0)
    if mode == "test":
        start = spare // 2 if num_segments == 1 else int(segment * (spare / (num_segments - 1)))
        steps = np.arange(start, min(start + window, total_frames), sampling_rate, dtype=np.int64)
        return np.pad(steps, (0, clip_len - len(steps)), mode="edge")
    if spare == 0:
        spread = np.linspace(0, total_frames, total_frames // sampling_rate)
        padded = np.concatenate([spread, np.full(clip_len - len(spread), float(total_frames))])
        return np.clip(padded, 0, total_frames - 1).astype(np.int64)
    start = int(_required(rng).integers(0, spare)) if mode == "train" else spare // 2
    end = start + window
    return np.clip(np.linspace(start, end, clip_len), start, end - 1).astype(np.int64)


def sparse_indices(
    total_frames: int,
    clip_len: int,
    *,
    mode: Mode,
    segment: int = 0,
    num_segments: int = 1,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Sample one frame from each of T pieces of the whole video.

    With g = (N - 1) / T, piece i runs from round(g i) to round(g (i + 1)), both included. Training draws a frame from
    it; validation and test add g (k + 1) / (S + 1), truncated, to its start.

    Arguments, return value and errors are those of `dense_indices`, without the sampling rate.
    """
    _check(total_frames, clip_len, mode, segment, num_segments, rng)
    gap = max(0.0, (total_frames - 1) / clip_len)
    # numpy rounds halves to even, as the published sampling does
    borders = np.rint(gap * np.arange(clip_len + 1)).astype(np.int64)
    if mode == "train":
        picked = _required(rng).integers(borders[:-1], borders[1:], endpoint=True)
    else:
        if mode == "validation":
            segment, num_segments = 0, 1
        picked = borders[:-1] + int(gap / (num_segments + 1) * (segment + 1))
    return np.minimum(picked, total_frames - 1).astype(np.int64)


def uniform_indices(
    total_frames: int,
    clip_len: int,
    *,
    mode: Mode,
    segment: int = 0,
    num_segments: int = 1,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Sample one frame from each of T equal segments of the whole video (TSN sampling).

    With a = N // T, training draws from [i a, (i + 1) a) and validation takes its middle; if the video has fewer than
    T frames, the first frame is repeated and followed by all others. Test clip k of S takes int(N / T * (i + k / S));
    a single test clip takes the validation frames.

    Arguments, return value and errors are those of `dense_indices`, without the sampling rate.
    """
    _check(total_frames, clip_len, mode, segment, num_segments, rng)
    if mode == "test" and num_segments > 1:
        tick = total_frames / clip_len
        return (segment * tick / num_segments + tick * np.arange(clip_len)).astype(np.int64)
    length = total_frames // clip_len
    if length == 0:
        repeats = np.zeros(clip_len - total_frames, dtype=np.int64)
        return np.concatenate([repeats, np.arange(total_frames, dtype=np.int64)])
    offset = _required(rng).integers(0, length, size=clip_len) if mode == "train" else length // 2
    return (np.arange(clip_len) * length + offset).astype(np.int64)


def keyframe_indices(key: int, total_frames: int, clip_len: int, sampling_rate: int) -> np.ndarray:
    """Sample T frames with a step of r around a key frame, which has the index T // 2 (as SlowFast for AVA).

    The first or last frame of the video replaces frames before its start or after its end.

    Args:
        key: 0-based number of the key frame.
        total_frames: N, at least 1.
        clip_len: T.
        sampling_rate: r, in frames.

    Returns:
        (T,) int64 frame numbers.

    Raises:
        ValueError: A count is not positive, or the key frame does not exist.
    """
    if min(total_frames, clip_len, sampling_rate) < 1:
        raise ValueError(
            f"counts must be at least 1: total_frames={total_frames}, clip_len={clip_len}, "
            f"sampling_rate={sampling_rate}"
        )
    if not 0 <= key < total_frames:
        raise ValueError(f"key frame {key} does not exist: there are {total_frames} frames")
    steps = np.arange(clip_len, dtype=np.int64) - clip_len // 2
    return np.clip(key + sampling_rate * steps, 0, total_frames - 1)


SAMPLERS = {"dense": dense_indices, "sparse": sparse_indices, "uniform": uniform_indices}


@dataclass(frozen=True)
class ViewSettings:
    """Settings of the frames of a clip and the views of a test."""

    sampling: str | None = option(None, "how frames are sampled (default: the preset's)", choices=tuple(SAMPLERS))
    num_frames: int = option(8, "frames per clip", positive_int)
    sampling_rate: int = option(4, "step between the frames of dense sampling", positive_int)
    window_seconds: float | None = option(
        None,
        "cut longer videos into windows of so many seconds, each a sample in training; a test averages all windows of "
        "a video (default: the preset's; 0: whole videos)",
        non_negative,
        metavar="SECONDS",
    )
    window_stride: float = option(16.0, "seconds between the starts of windows", positive, metavar="SECONDS")
    input_size: FrameSize = option(
        224,
        "height and width of a clip in pixels, or one number for square clips; both multiples of the patch size",
        positive_int,
        nargs="+",
        metavar=("HEIGHT", "WIDTH"),
        action=StoreSize,
    )
    short_side_size: int | None = option(
        None,
        "length of the shorter side in evaluation, in pixels; clips that are not square: of the smallest frame that "
        "their shape fits into (default: the shorter side of --input_size)",
        positive_int,
    )
    test_num_segment: int = option(4, "temporal clips per video in a test", positive_int)
    test_num_crop: int = option(3, "spatial crops per clip in a test", positive_int)
    crop_pct: float = option(0.875, "share of an image that the evaluation crop keeps", positive_fraction)

    @property
    def short_side(self) -> int:
        """Length of the shorter side in evaluation, in pixels."""
        return self.short_side_size or shorter(self.input_size)


def check_test_sizes(input_size: FrameSize, short_side: int) -> None:
    """Check that the crops of a test have the shorter side of the frame.

    Raises:
        ValueError: The sizes differ.
    """
    if short_side != shorter(input_size):
        raise ValueError(
            f"--short_side_size {short_side} and --input_size {as_typed(input_size)} must be equal for testing: "
            "the test crops are as large as the short side; leave --short_side_size out"
        )


def _required(rng: np.random.Generator | None) -> np.random.Generator:
    """Return the generator; raise ValueError if it is missing."""
    if rng is None:
        raise ValueError("training clips are random: pass rng, a numpy Generator")
    return rng


def _check(total_frames, clip_len, mode, segment, num_segments, rng):
    """Raise ValueError for invalid arguments."""
    if total_frames < 1 or clip_len < 1:
        raise ValueError(f"need at least one frame to sample: total_frames={total_frames}, clip_len={clip_len}")
    if mode not in ("train", "validation", "test"):
        raise ValueError(f'mode must be "train", "validation" or "test", not "{mode}"')
    if not 0 <= segment < num_segments:
        raise ValueError(f"segment {segment} does not exist: there are {num_segments}")
    if mode == "train":
        _required(rng)
