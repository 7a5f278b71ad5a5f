"""Which frames of a video make a clip: pure functions, no file is opened here.

Three ways to sample, each the frames that the published data sets read:

- dense:   `clip_len` frames about `sampling_rate` apart, a short stretch of the video (Kinetics);
- sparse:  the whole video cut into `clip_len` pieces, one frame of each, the pieces meeting at rounded borders
           (Kinetics_sparse, Breakfast, COIN);
- uniform: the whole video cut into `clip_len` equal segments (Something-Something V2, TSN sampling).

Symbols: N = frames in the video, T = clip_len, r = sampling_rate, S = num_segments, k = segment.
Every function returns T 0-based frame numbers as a numpy int64 array, all within [0, N). "train" draws from `rng`,
"validation" is the middle of the video, "test" the k-th of S clips; a single test segment is the middle.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.flag_types import positive_fraction, positive_int
from common.settings import option

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
    """Take T frames spread over about T * r consecutive frames.

    Training spaces the T frames evenly from the first to the last of a random window of T * r frames; validation
    takes the window in the middle. A test clip steps by exactly r from one of S starts spread over the video. A video
    shorter than the window is read from its start and its last frame repeated.

    Args:
        total_frames: N, at least 1.
        clip_len: T.
        sampling_rate: r, in frames.
        mode: "train", "validation" or "test".
        segment: k, 0-based, in mode "test".
        num_segments: S, in mode "test".
        rng: needed in mode "train".

    Returns:
        (T,) int64 frame numbers.

    Raises:
        ValueError: a count is not positive, the segment does not exist, or `rng` is missing in training.
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
    start = int(_drawing(rng).integers(0, spare)) if mode == "train" else spare // 2
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
    """Take one frame from each of T pieces of the whole video.

    With g = (N - 1) / T, piece i runs from round(g i) to round(g (i + 1)), both included: training draws from it,
    validation and test step into it by g (k + 1) / (S + 1), truncated.

    Args, returns and errors: as in `dense_indices`, without the sampling rate.
    """
    _check(total_frames, clip_len, mode, segment, num_segments, rng)
    gap = max(0.0, (total_frames - 1) / clip_len)
    # numpy rounds halves to even, as the published sampling does
    borders = np.rint(gap * np.arange(clip_len + 1)).astype(np.int64)
    if mode == "train":
        picked = _drawing(rng).integers(borders[:-1], borders[1:], endpoint=True)
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
    """Take one frame from each of T equal segments of the whole video (TSN sampling).

    With a = N // T, training draws from [i a, (i + 1) a) and validation takes the middle of it; a video with fewer
    than T frames is read whole after repeating its first frame. Test clip k of S takes int(N / T * (i + k / S)),
    a single test clip the validation frames.

    Args, returns and errors: as in `dense_indices`, without the sampling rate.
    """
    _check(total_frames, clip_len, mode, segment, num_segments, rng)
    if mode == "test" and num_segments > 1:
        tick = total_frames / clip_len
        return (segment * tick / num_segments + tick * np.arange(clip_len)).astype(np.int64)
    length = total_frames // clip_len
    if length == 0:
        repeats = np.zeros(clip_len - total_frames, dtype=np.int64)
        return np.concatenate([repeats, np.arange(total_frames, dtype=np.int64)])
    offset = _drawing(rng).integers(0, length, size=clip_len) if mode == "train" else length // 2
    return (np.arange(clip_len) * length + offset).astype(np.int64)


def keyframe_indices(key: int, total_frames: int, clip_len: int, sampling_rate: int) -> np.ndarray:
    """Take T frames in steps of r around a key frame, which is the one at place T // 2 (SlowFast's for AVA).

    Frames before the start or after the end of the video are its first or last one.

    Args:
        key: 0-based number of the key frame.
        total_frames: N, at least 1.
        clip_len: T.
        sampling_rate: r, in frames.

    Returns:
        (T,) int64 frame numbers.

    Raises:
        ValueError: a count is not positive, or the key frame does not exist.
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
    """Which frames a clip has, and which views of a video are tested."""

    sampling: str | None = option(None, "how frames are chosen (default: the preset's)", choices=tuple(SAMPLERS))
    num_frames: int = option(8, "frames of a clip", positive_int)
    sampling_rate: int = option(4, "step between frames of dense sampling", positive_int)
    input_size: int = option(224, "side of a clip in pixels", positive_int)
    short_side_size: int = option(224, "side that evaluation resizes to", positive_int)
    test_num_segment: int = option(4, "test clips over time", positive_int)
    test_num_crop: int = option(3, "test crops of a clip", positive_int)
    crop_pct: float = option(0.875, "share of an image kept in evaluation", positive_fraction)


def _drawing(rng: np.random.Generator | None) -> np.random.Generator:
    """Refuse training without a generator."""
    if rng is None:
        raise ValueError("training clips are random: pass rng, a numpy Generator")
    return rng


def _check(total_frames, clip_len, mode, segment, num_segments, rng):
    """Refuse arguments that no video and no setting can have."""
    if total_frames < 1 or clip_len < 1:
        raise ValueError(f"need at least one frame to sample: total_frames={total_frames}, clip_len={clip_len}")
    if mode not in ("train", "validation", "test"):
        raise ValueError(f'mode is "train", "validation" or "test", not "{mode}"')
    if not 0 <= segment < num_segments:
        raise ValueError(f"segment {segment} does not exist: there are {num_segments}")
    if mode == "train":
        _drawing(rng)
