"""Which records a process reads, in which order, and the loader that tells of unreadable ones."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import DataLoader, Sampler

from common.flag_types import non_negative, non_negative_int, positive_int
from common.settings import flag, option
from datasets.clip_dataset import ClipDataset, SampleKey
from datasets.readers import DECODERS, UnreadableVideoError
from datasets.worker import sharing_explained

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadingSettings:
    """How records are read and put into batches."""

    batch_size: int = option(64, "videos per process and step", positive_int)
    sampler: str = option(
        "uniform",
        "uniform: every training video once an epoch; balanced: every class as often as the others",
        choices=("uniform", "balanced"),
    )
    num_workers: int = option(10, "loader processes", non_negative_int)
    reader: str = option(DECODERS[0], "what decodes videos", choices=DECODERS)
    read_timeout: float = option(
        60,
        "a file that takes longer, or crashes its decoder, is unreadable and does not stop the run; time in "
        "which the job is suspended or a disk does not answer is not counted; "
        "0: no limit, and decode in the worker itself",
        non_negative,
        metavar="SECONDS",
    )
    pin_mem: bool = flag(True, "pin memory for a GPU (default)")
    strict_data: bool = flag(False, "an unreadable evaluation video is an error, not left out")
    dist_timeout: float = 600
    """seconds that processes wait for each other: a flag of the engine."""


class TrainSampler(Sampler):
    """A new random order each epoch, dealt out to the ranks; the remainder that does not go round is left out.

    Yields `SampleKey`s: the epoch travels with the index, because persistent workers keep copies of the data set that
    would not hear of a new epoch.
    """

    def __init__(self, length: int, *, rank: int, world_size: int, seed: int):
        """Deal `length` records to `world_size` ranks."""
        self.length, self.rank, self.world_size, self.seed = length, rank, world_size, seed
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Choose the order, and the random numbers of the samples, of an epoch; leave out its first `start` records.

        A run that goes on in the middle of an epoch so begins with the next record, and decodes none before it.
        """
        self.epoch, self.start = epoch, start

    def __iter__(self) -> Iterator[SampleKey]:
        """Yield this rank's records that are not left out."""
        order = self.order(np.random.default_rng((self.seed, self.epoch)))
        mine = order[self.rank : len(self) * self.world_size : self.world_size]
        return iter([SampleKey(index, self.epoch, draw) for index, draw in mine[self.start :].tolist()])

    def order(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the epoch's records over all ranks: (length, 2) int, record and how often it has come before."""
        return np.stack([rng.permutation(self.length), np.zeros(self.length, dtype=np.int64)], axis=1)

    def __len__(self) -> int:
        """Give the number of records of this rank in a whole epoch, the same for all ranks."""
        return self.length // self.world_size


class EvalSampler(Sampler):
    """Every record once over all ranks, none twice: rank r reads r, r + world_size, ..."""

    def __init__(self, length: int, *, rank: int, world_size: int):
        """Deal `length` records to `world_size` ranks; some may have one more than others."""
        self.indices = range(rank, length, world_size)

    def __iter__(self) -> Iterator[int]:
        """Yield this rank's records in the order of the list."""
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class ClipLoader(DataLoader):
    """A DataLoader that names each unreadable video once, in the log, as its batch goes by.

    `unreadable` holds all that were met so far: index -> message. With `strict`, the first one is an error instead.
    """

    dataset: ClipDataset

    def __init__(self, dataset: ClipDataset, *, replaced: bool, strict: bool, **settings):
        """Wrap a data set; `replaced` says what became of unreadable videos, `settings` are DataLoader's."""
        super().__init__(dataset, **settings)
        self._replaced, self._strict = replaced, strict
        self.unreadable: dict[int, str] = {}

    def __iter__(self) -> Iterator[dict]:
        """Yield batches, also where the collate function makes several of the records that are read together.

        Raises:
            UnreadableVideoError: `strict` is set and a video cannot be read.
            RuntimeError: the workers cannot share their batches.
        """
        if self.dataset.guard is not None:
            self.dataset.guard.start_pass()
        redrawn = 0
        with sharing_explained():
            for collated in super().__iter__():
                for batch in collated if isinstance(collated, list) else [collated]:
                    for index, message in batch["unreadable"]:
                        self._tell(index, message)
                    redrawn += batch.get("redrawn", 0)
                    yield batch
        if redrawn:
            logger.info("%d clips were cropped a second time: the first crop showed none of their boxes", redrawn)

    def _tell(self, index: int, message: str) -> None:
        if self._strict:
            raise UnreadableVideoError(self.dataset.records[index].path, f"{message} (--strict_data is set)")
        if index not in self.unreadable:
            self.unreadable[index] = message
            fate = "replaced by another one" if self._replaced else "left out of the evaluation"
            logger.warning("unreadable video %s: %s", fate, message)
