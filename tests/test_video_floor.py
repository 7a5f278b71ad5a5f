"""The floor without a network: it finds colours and motion where they tell the classes, and nothing in noise."""

import numpy as np
import pytest
import torch

from benchmarks.video_floor import regress, video_floor


def clips_of(labels, *, colour=0.0, motion=0.0, seed=0):
    """Noise; class 1 is redder by `colour` and changes by `motion` from frame to frame."""
    rng = np.random.default_rng(seed)
    clips = rng.integers(90, 160, (len(labels), 1, 3, 4, 16, 16)).astype(np.float32)
    clips = clips.mean((3, 4, 5), keepdims=True) * 0.5 + 0.5 * clips[:, :, :, :1]  # still, and alike
    clips = np.repeat(clips, 4, axis=3)
    ones = np.asarray(labels) == 1
    clips[ones, :, 0] += colour
    clips[ones] += motion * np.array([1, -1, 1, -1])[:, None, None]
    return torch.from_numpy(clips.clip(0, 255)).to(torch.uint8)


LABELS = np.array([0, 1] * 20)


@pytest.mark.parametrize(
    ("effect", "seen", "unseen"),
    [({"colour": 40}, "colours", "frame differences"), ({"motion": 20}, "frame differences", None)],
)
def test_it_sees_what_there_is(effect, seen, unseen):
    scores = video_floor(clips_of(LABELS, **effect), LABELS, clips_of(LABELS, **effect, seed=1), LABELS)
    assert scores[seen] > 95 and scores["both"] > 95
    assert unseen is None or scores[unseen] < 75
    assert (scores["chance"], scores["largest class"]) == (50, 50)


def test_classes_that_do_not_differ_are_not_told_apart():
    scores = video_floor(clips_of(LABELS), LABELS, clips_of(LABELS, seed=1), LABELS)
    assert 25 <= scores["both"] <= 75


def test_a_class_with_a_single_video_can_be_fitted():
    assert regress(np.array([[0.0], [1.0], [1.1]]), np.array([0, 1, 1]), np.array([[0.0], [1.0]])).tolist() == [0, 1]
