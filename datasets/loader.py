"""Samplers, which choose the records of a rank and their order, and the loader that logs unreadable videos."""

import logging
from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader, Sampler

from datasets.clip_dataset import ClipDataset, SampleKey
from datasets.readers import UnreadableVideoError
from datasets.worker import sharing_explained

logger = logging.getLogger(__name__)


class TrainSampler(Sampler):
    """Draw a new random order every epoch and distribute it over the ranks, dropping the remainder.

    The sampler yields `SampleKey`s, which contain the epoch, because the copies of the dataset in persistent workers
    are not notified of a new epoch.
    """

    def __init__(self, length: int, *, rank: int, world_size: int, seed: int, records: int = 0):
        """Distribute `length` records over `world_size` ranks; `records` is the epoch's length, if it differs."""
        self.length, self.rank, self.world_size, self.seed = length, rank, world_size, seed
        self.records = records or length
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Set the epoch, which determines the order and the random numbers, and skip its first `start` records.

        A run that resumes in the middle of an epoch thus continues with the next record without decoding earlier ones.
        """
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[SampleKey]:
        rng = np.random.default_rng((self.seed, self.epoch))
        # Within one order, a record occurs at most `length` times.
        orders = [self.order(rng) + [0, i * self.length] for i in range(-(-self.records // self.length))]
        of_rank = np.concatenate(orders)[self.rank : len(self) * self.world_size : self.world_size]
        return iter([SampleKey(index, self.epoch, draw) for index, draw in of_rank[self.start :].tolist()])

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Draw one order of samples for all ranks: (length, 2) int, record index and number of earlier occurrences."""
        return np.stack([rng.permutation(self.length), np.zeros(self.length, dtype=np.int64)], axis=1)

    def __len__(self) -> int:
        """Return the number of records per rank in a whole epoch, the same for all ranks."""
        return self.records // self.world_size


class EvalSampler(Sampler):
    """Read each record on exactly one rank: rank r reads r, r + world_size, ..."""

    def __init__(self, length: int, *, rank: int, world_size: int):
        """Distribute `length` records over `world_size` ranks; some may get one more than others."""
        self.indices = range(rank, length, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class ClipLoader(DataLoader):
    """A DataLoader that logs each unreadable video once, when its batch is yielded.

    Args:
        dataset: What to load.
        replaced: Whether unreadable videos have been replaced by others (for the log message).
        strict: Raise an error at the first unreadable video.
        settings: Arguments of `DataLoader`.

    Attributes:
        unreadable: Messages of all unreadable videos so far, by record index.
        logs_unreadable: Set it to False if the caller reports them.
    """

    dataset: ClipDataset
    logs_unreadable = True

    def __init__(self, dataset: ClipDataset, *, replaced: bool, strict: bool, **settings):
        super().__init__(dataset, **settings)
        self._replaced, self._strict = replaced, strict
        self.unreadable: dict[int, str] = {}

    def __iter__(self) -> Iterator[dict]:
        """Yield batches, also where the collate function makes several of the records that are read together.

        Raises:
            UnreadableVideoError: A video cannot be read and `strict` is set.
            RuntimeError: The workers cannot share their batches because shared memory is too small.
        """
        if self.dataset.guard is not None:
            self.dataset.guard.start_pass()
        redrawn = 0
        try:
            with sharing_explained():
                for collated in super().__iter__():
                    for batch in collated if isinstance(collated, list) else [collated]:
                        for index, message in batch["unreadable"]:
                            self._report(index, message)
                        redrawn += batch.get("redrawn", 0)
                        yield batch
        finally:  # a training epoch takes as many batches as it has steps, and not the end of the loop
            if redrawn:
                logger.info("%d clips were cropped a second time: the first crop showed none of their boxes", redrawn)

    def _report(self, index: int, message: str) -> None:
        if self._strict:
            raise UnreadableVideoError(self.dataset.records[index].path, f"{message} (--strict_data is set)")
        if index not in self.unreadable:
            self.unreadable[index] = message
            if not self.logs_unreadable:
                return
            handling = "replaced by another one" if self._replaced else "left out of the evaluation"
            # An error and not a warning, because every rank has to log those of its own videos.
            logger.error("unreadable video %s: %s", handling, message)
