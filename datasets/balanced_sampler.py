"""Class-balanced sampling, for lists in which some classes have few videos."""

from collections.abc import Sequence

import numpy as np

from datasets.loader import TrainSampler


class BalancedSampler(TrainSampler):
    """Sample every class equally often; an epoch has as many samples as the list has records.

    The records of a small class repeat, with different augmentations; none is repeated again before the others have
    been. Of a large class, each epoch uses different records.
    """

    def __init__(self, labels: Sequence[int], *, rank: int, world_size: int, seed: int, records: int = 0):
        """Distribute records with these labels over `world_size` ranks."""
        super().__init__(len(labels), rank=rank, world_size=world_size, seed=seed, records=records)
        classes = np.asarray(labels)
        self.members = [np.flatnonzero(classes == label) for label in np.unique(classes)]

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Draw one order of samples for all ranks: (length, 2) int, record index and number of earlier occurrences."""
        shares = np.full(len(self.members), self.length // len(self.members))
        # The remainder goes to classes drawn at random in each epoch.
        shares[rng.permutation(len(shares))[: self.length % len(shares)]] += 1
        drawn = [_cycle(members, share, rng) for members, share in zip(self.members, shares, strict=True)]
        return rng.permutation(np.concatenate(drawn))


def _cycle(members: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` members, each once before any repeats: (count, 2), the member and its number of repeats."""
    rounds = -(-count // len(members))
    drawn = [np.stack([rng.permutation(members), np.full(len(members), i)], axis=1) for i in range(rounds)]
    return np.concatenate(drawn)[:count] if drawn else np.empty((0, 2), dtype=np.int64)
