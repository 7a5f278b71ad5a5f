"""An epoch in which every class comes as often as the others, for lists where some classes have few videos."""

from collections.abc import Sequence

import numpy as np

from datasets.loader import TrainSampler


class BalancedSampler(TrainSampler):
    """As many records an epoch as the list has, shared evenly by the classes that occur.

    A class with few videos repeats all of them, each time with other augmentations, before any comes once more; of a
    class with many, each epoch shows others.
    """

    def __init__(self, labels: Sequence[int], *, rank: int, world_size: int, seed: int, records: int = 0):
        """Deal records with these classes to `world_size` ranks."""
        super().__init__(len(labels), rank=rank, world_size=world_size, seed=seed, records=records)
        classes = np.asarray(labels)
        self.members = [np.flatnonzero(classes == label) for label in np.unique(classes)]

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Draw one order of the records over all ranks: (length, 2) int, record and how often it has come before."""
        shares = np.full(len(self.members), self.length // len(self.members))
        # What does not go round goes to classes drawn anew each epoch.
        shares[rng.permutation(len(shares))[: self.length % len(shares)]] += 1
        drawn = [_cycle(members, share, rng) for members, share in zip(self.members, shares, strict=True)]
        return rng.permutation(np.concatenate(drawn))


def _cycle(members: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` of `members` in rounds of all of them: (count, 2), the member and the number of its round."""
    rounds = -(-count // len(members))
    drawn = [np.stack([rng.permutation(members), np.full(len(members), i)], axis=1) for i in range(rounds)]
    return np.concatenate(drawn)[:count] if drawn else np.empty((0, 2), dtype=np.int64)
