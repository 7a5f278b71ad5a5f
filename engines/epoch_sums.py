"""Sums over the updates of an epoch, kept in the training state so that a resumed epoch reports all of itself."""

from dataclasses import asdict, dataclass, field
from typing import Any

from engines.distributed import gather_objects

LOOP_SCALARS = {
    *("lr", "grad_norm", "clips_per_second", "data_time", "skipped", "unreadable"),
    *("step_seconds", "data_seconds", "memory_gib"),
}
"""Names of the training loop's own numbers in the logs, which an objective's scalars must not have."""


@dataclass
class EpochSums:
    """Sums over some updates, of one process or of all together.

    Attributes:
        updates: that changed the weights.
        skipped: updates left out because loss or gradient were not finite; nothing of them is in the other sums.
        scalars: sums of the objective's "loss" and further scalars by name; of all processes: of their means over the
            processes.
        grad_norm: sum of the gradient norms before clipping.
        clips: seen; of all processes: by all.
        seconds: that the updates took, waiting for data included; of all processes: the slowest one's.
        data_seconds: of these, spent waiting for the loader; of all processes: their mean.
        lr: of the last update.
        unreadable: path of each video that could not be read -> why.
    """

    updates: int = 0
    skipped: int = 0
    scalars: dict[str, float] = field(default_factory=dict)
    grad_norm: float = 0.0
    clips: int = 0
    seconds: float = 0.0
    data_seconds: float = 0.0
    lr: float = 0.0
    unreadable: dict[str, str] = field(default_factory=dict)

    def followed_by(self, later: "EpochSums") -> "EpochSums":
        """Return the sums over these updates and `later` ones."""
        return EpochSums(
            self.updates + later.updates,
            self.skipped + later.skipped,
            _added(self.scalars, later.scalars),
            self.grad_norm + later.grad_norm,
            self.clips + later.clips,
            self.seconds + later.seconds,
            self.data_seconds + later.data_seconds,
            later.lr or self.lr,
            self.unreadable | later.unreadable,
        )

    def over_ranks(self) -> "EpochSums":
        """Return the sums of all processes together, the same on each; all must call it, over the same updates."""
        ranks = gather_objects(self)
        return EpochSums(
            self.updates,
            self.skipped,
            {name: sum(rank.scalars[name] for rank in ranks) / len(ranks) for name in self.scalars},
            sum(rank.grad_norm for rank in ranks) / len(ranks),
            sum(rank.clips for rank in ranks),
            max(rank.seconds for rank in ranks),
            sum(rank.data_seconds for rank in ranks) / len(ranks),
            self.lr,
            {path: reason for rank in ranks for path, reason in rank.unreadable.items()},
        )

    @property
    def metrics(self) -> dict[str, float]:
        """What the log tells: loss, the objective's other scalars, grad_norm (means), lr (the last), and more.

        data_time is the share of the time spent waiting for the loader, 0 to 1. Means over no update at all are nan.
        """
        mean = 1 / self.updates if self.updates else float("nan")
        seconds = self.seconds or float("nan")
        return {
            "loss": float("nan"),
            **{name: total * mean for name, total in self.scalars.items()},
            "lr": self.lr,
            "grad_norm": self.grad_norm * mean,
            "clips_per_second": self.clips / seconds,
            "data_time": self.data_seconds / seconds,
            "skipped": self.skipped,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as plain values, which `from_saved` takes back."""
        return asdict(self)

    @classmethod
    def from_saved(cls, values: dict[str, Any]) -> "EpochSums":
        """Take the sums back; checkpoints of version 0.1 hold the loss alone, and not among `scalars`."""
        values = dict(values)
        if "loss" in values:
            values["scalars"] = {"loss": values.pop("loss")}
        return cls(**values)


def _added(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """Add numbers by name."""
    return {name: first.get(name, 0.0) + second.get(name, 0.0) for name in first | second}
