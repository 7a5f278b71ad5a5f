"""Frame sampling: the published validation and test frames exactly, the random training frames by their properties."""

import json
from pathlib import Path

import numpy as np
import pytest

from datasets.sampling import dense_indices, sparse_indices, uniform_indices

GOLDEN = json.loads((Path(__file__).parent / "data" / "frame_indices.json").read_text())
LENGTHS = [1, 2, 5, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 150, 300]


# sampler -> name of its cases, the key of a video's frames, and the keys of the settings
KEYS = {
    "dense": ("dense", "num_frames_in_video", ("clip_len", "sampling_rate")),
    "sparse": ("sparse", "num_frames_in_video", ("clip_len",)),
    "uniform": ("rawframes", "total_frames", ("num_frames",)),
}
SAMPLERS = {"dense": dense_indices, "sparse": sparse_indices, "uniform": uniform_indices}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_validation_and_test_frames_are_the_published_ones(kind):
    sample, (name, frames, settings_of) = SAMPLERS[kind], KEYS[kind]
    assert len(GOLDEN[name]) == 56
    for case in GOLDEN[name]:
        total, settings, segments = case[frames], [case[key] for key in settings_of], case["test_num_segment"]
        assert sample(total, *settings, mode="validation").tolist() == case["validation"], case
        for k in range(segments):
            found = sample(total, *settings, mode="test", segment=k, num_segments=segments)
            assert found.tolist() == case["test"][k], case
            assert found.dtype == np.int64


@pytest.mark.parametrize("clip_len", [1, 8, 16])
@pytest.mark.parametrize("kind", SAMPLERS)
def test_training_frames_exist_and_are_in_order(kind, clip_len):
    rng = np.random.default_rng(0)
    settings = (clip_len, 4) if kind == "dense" else (clip_len,)
    for total in np.repeat(LENGTHS, 50):
        found = SAMPLERS[kind](int(total), *settings, mode="train", rng=rng)
        assert found.shape == (clip_len,) and found.dtype == np.int64, total
        assert found.min() >= 0 and found.max() < total
        assert (np.diff(found) >= 0).all(), total


def test_a_dense_training_clip_is_a_window_and_every_window_is_as_likely():
    rng = np.random.default_rng(1)
    total, clip_len, rate = 50, 8, 4
    starts = np.zeros(total, dtype=int)
    for _ in range(6000):
        found = dense_indices(total, clip_len, rate, mode="train", rng=rng)
        starts[found[0]] += 1
        assert found[-1] - found[0] == clip_len * rate - 1
        assert set(np.diff(found)) <= {4, 5}
    possible = total - clip_len * rate
    assert starts[possible:].sum() == 0
    expected = 6000 / possible
    # each count is binomial with standard deviation near sqrt(expected) = 18
    assert np.abs(starts[:possible] - expected).max() < 5 * np.sqrt(expected)


def test_sparse_training_frames_cover_the_video_evenly():
    rng = np.random.default_rng(2)
    drawn = np.stack([sparse_indices(81, 8, mode="train", rng=rng) for _ in range(4000)])
    for i in range(8):
        assert set(drawn[:, i]) == set(range(10 * i, 10 * i + 11))
        share = np.bincount(drawn[:, i] - 10 * i, minlength=11) / 4000
        assert np.abs(share - 1 / 11).max() < 0.025


def test_uniform_training_frames_cover_their_segments_evenly():
    rng = np.random.default_rng(3)
    drawn = np.stack([uniform_indices(83, 8, mode="train", rng=rng) for _ in range(4000)])
    for i in range(8):
        assert set(drawn[:, i]) == set(range(10 * i, 10 * i + 10))
        assert np.abs(np.bincount(drawn[:, i] - 10 * i) / 4000 - 0.1).max() < 0.025


def test_a_video_of_exactly_the_clip_is_read_whole():
    rng = np.random.default_rng(4)
    for mode in ("train", "validation"):
        assert uniform_indices(8, 8, mode=mode, rng=rng).tolist() == list(range(8))
    assert dense_indices(8, 8, 1, mode="test").tolist() == list(range(8))


def test_a_single_test_segment_is_the_middle():
    assert dense_indices(100, 8, 4, mode="test").tolist() == list(range(34, 66, 4))
    for sample in (sparse_indices, uniform_indices):
        assert sample(100, 8, mode="test").tolist() == sample(100, 8, mode="validation").tolist()


def test_the_same_generator_state_gives_the_same_clip():
    for kind, settings in (("dense", (8, 4)), ("sparse", (8,)), ("uniform", (8,))):
        clips = [SAMPLERS[kind](300, *settings, mode="train", rng=np.random.default_rng(7)) for _ in range(2)]
        assert clips[0].tolist() == clips[1].tolist()
        assert clips[0].tolist() != SAMPLERS[kind](300, *settings, mode="train", rng=np.random.default_rng(8)).tolist()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"total_frames": 0}, "at least one frame"),
        ({"clip_len": 0}, "at least one frame"),
        ({"mode": "val"}, "mode must be"),
        ({"segment": 2, "num_segments": 2, "mode": "test"}, "segment 2 does not exist"),
        ({"mode": "train"}, "pass rng"),
    ],
)
def test_impossible_requests_are_refused(arguments, said):
    full = {"total_frames": 10, "clip_len": 8, "mode": "validation"} | arguments
    for sample in (sparse_indices, uniform_indices):
        with pytest.raises(ValueError, match=said):
            sample(**full)
    with pytest.raises(ValueError, match=said):
        dense_indices(sampling_rate=4, **full)
