"""Which records a process reads, in which order, and the loader that tells of unreadable ones."""

import logging
import os
import signal
import threading
from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader, Sampler

from datasets.clip_dataset import ClipDataset, SampleKey
from datasets.memory import keep_freed_memory
from datasets.readers import UnreadableVideoError

logger = logging.getLogger(__name__)


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
        """Give the number of records of this rank."""
        return len(self.indices)


class ClipLoader(DataLoader):
    """A DataLoader that names each unreadable video once, in the log, as its batch goes by.

    `unreadable` holds all that were met so far: index -> message. With `strict`, the first one is an error instead.
    """

    def __init__(self, dataset: ClipDataset, *, replaced: bool, strict: bool, **settings):
        """Wrap a data set; `replaced` says what became of unreadable videos, `settings` are DataLoader's."""
        super().__init__(dataset, **settings)
        self._replaced, self._strict = replaced, strict
        self.unreadable: dict[int, str] = {}

    def __iter__(self) -> Iterator[dict]:
        """Yield batches; raises `UnreadableVideoError` where `strict` is set and a video cannot be read."""
        for batch in super().__iter__():
            for index, message in batch["unreadable"]:
                self._tell(index, message)
            yield batch

    def _tell(self, index: int, message: str) -> None:
        if self._strict:
            raise UnreadableVideoError(self.dataset.records[index].path, f"{message} (--strict_data is set)")
        if index not in self.unreadable:
            self.unreadable[index] = message
            fate = "replaced by another one" if self._replaced else "left out of the evaluation"
            logger.warning("unreadable video %s: %s", fate, message)


def start_worker(_worker: int) -> None:
    """Prepare a process of a loader."""
    keep_freed_memory()
    outlive_stop_signals()


def outlive_stop_signals() -> None:
    """Let a loader's worker end with its parent only: SIGUSR1, and SIGTERM from anyone else, do nothing to it.

    Launchers and schedulers signal every process of a job, and the parent needs its workers until it has saved.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    signals = {signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.Thread(target=_end_with_parent, args=(signals,), daemon=True).start()


def _end_with_parent(signals: set[signal.Signals]) -> None:
    while True:
        received = signal.sigwaitinfo(signals)
        if received.si_signo == signal.SIGTERM and received.si_pid == os.getppid():
            os._exit(0)
