"""Clips without motion, or without its order: controls of a test that show which classes need them.

A class that is still recognised when one frame is repeated needs no motion; one that is still recognised when the
frames are in random order needs no order ("Only Time Can Tell", arXiv 1907.08340).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from common.settings import flag

Sampler = Callable[..., np.ndarray]


@dataclass(frozen=True)
class TemporalControlSettings:
    """Whether a test is repeated on clips without motion."""

    temporal_controls: bool = flag(
        False,
        "repeat the test with one frame of each clip repeated (static), and with its frames in random order "
        "(shuffled): top-1 by class of each in results.json and report.html (default: off)",
    )


def repeat_middle_frame(sample: Sampler, *args: Any, **options: Any) -> np.ndarray:
    """Sample a clip's frame numbers (T,), and replace them all by the middle one."""
    numbers = sample(*args, **options)
    return np.full_like(numbers, numbers[len(numbers) // 2])


def shuffle_frames(sample: Sampler, *args: Any, rng: np.random.Generator, **options: Any) -> np.ndarray:
    """Sample a clip's frame numbers (T,), and put them in random order."""
    return rng.permutation(sample(*args, rng=rng, **options))


CONTROLS = {"static": repeat_middle_frame, "shuffled": shuffle_frames}
"""Changes of the frames that a clip has, by name."""


def check_controls(task: str, dataset: Any) -> None:
    """Raise a ValueError where the controls have nothing to say: other tasks than classes, and single images."""
    if task != "classification":
        raise ValueError(f"--temporal_controls counts right answers by class, and this run has --task {task}; omit it")
    if dataset.plan.clip_shape[1] == 1:
        raise ValueError(
            "--temporal_controls changes the order of frames, and a clip of this run has only one; omit it"
        )


def with_control(dataset: Any, name: str) -> Any:
    """Return a `ClipDataset` that reads the same records and views with a control's frames."""
    changed = copy.copy(dataset)
    changed.plan = replace(dataset.plan, sample=partial(CONTROLS[name], dataset.plan.sample))
    return changed
