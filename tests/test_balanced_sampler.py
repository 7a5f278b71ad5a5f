"""The balanced sampler: equal classes, no early repeats, the same result for any number of processes."""

from collections import Counter

import numpy as np
import pytest

from datasets.balanced_sampler import BalancedSampler

LABELS = [0] * 70 + [1] * 20 + [4] * 7 + [2] * 3


def drawn(epoch=0, world_size=1, seed=3, start=0):
    """Return the keys of all ranks, in the order of training."""
    ranks = []
    for rank in range(world_size):
        sampler = BalancedSampler(LABELS, rank=rank, world_size=world_size, seed=seed)
        sampler.set_epoch(epoch, start=start)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler) - start
    return [key for group in zip(*ranks, strict=True) for key in group]


@pytest.mark.parametrize("epoch", [0, 1])
def test_every_class_comes_as_often_and_every_video_of_a_small_one(epoch):
    keys = drawn(epoch)
    assert Counter(LABELS[key.index] for key in keys) == {0: 25, 1: 25, 2: 25, 4: 25}
    times = Counter(key.index for key in keys)
    for label in set(LABELS):
        counts = [times[index] for index, other in enumerate(LABELS) if other == label]
        assert max(counts) - min(counts) <= 1
    assert len(set(keys)) == len(keys), "a video that comes again has other random numbers"
    assert [key.draw for key in keys if LABELS[key.index] == 0] == [0] * 25


def test_it_depends_on_seed_and_epoch_alone():
    assert drawn() == drawn() != drawn(epoch=1) != drawn(seed=4)
    assert drawn(world_size=3) == drawn()[:99]
    assert drawn(start=30) == drawn()[30:]


def test_a_large_class_shows_other_videos_each_epoch():
    seen = {key.index for epoch in range(12) for key in drawn(epoch) if LABELS[key.index] == 0}
    assert len(seen) > 60


def test_more_classes_than_records_of_a_share():
    sampler = BalancedSampler(range(5), rank=0, world_size=1, seed=0)
    assert sorted(key.index for key in sampler) == [0, 1, 2, 3, 4]
    assert np.isin([key.draw for key in sampler], 0).all()
