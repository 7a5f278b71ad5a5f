"""Running sums over the optimizer steps of an epoch.

They are part of the training state, so that the log line of a resumed epoch covers the whole epoch.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from engines.distributed import gather_objects

LOOP_SCALARS = {
    *("lr", "grad_norm", "clips_per_second", "data_time", "skipped", "unreadable"),
    *("step_seconds", "data_seconds", "memory_gib"),
}
"""Names that the training loop itself logs, and that an objective's scalars must not use."""


@dataclass
class EpochSums:
    """Sums over some optimizer steps, of one process or of all processes together (see `over_ranks`).

    Attributes:
        updates: number of steps that changed the weights.
        skipped: number of steps skipped because loss or gradient were not finite; the other sums exclude them.
        scalars: sums of "loss" and the objective's other scalars by name; over all processes, sums of their means.
        grad_norm: sum of the gradient norms before clipping.
        clips: number of clips; over all processes, their total.
        seconds: duration of the steps, including the wait for data; over all processes, the slowest one's.
        data_seconds: part of `seconds` spent waiting for the dataloader; over all processes, their mean.
        lr: learning rate of the last step.
        unreadable: path of each video that could not be read -> reason.
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
        """Return the sums over these steps and `later` ones."""
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
        """Return the sums over all processes, the same on every rank; all must call it after the same step."""
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
        """The numbers to log: means of the loss, the objective's other scalars and grad_norm; the last lr; and more.

        data_time is the share of time spent waiting for the dataloader, 0 to 1. Means over zero steps are NaN.
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
        """Return the sums as plain values; `from_saved` is the inverse."""
        return asdict(self)

    @classmethod
    def from_saved(cls, values: dict[str, Any]) -> "EpochSums":
        """Restore the sums; checkpoints of version 0.1 have only the loss, outside of `scalars`."""
        values = dict(values)
        if "loss" in values:
            values["scalars"] = {"loss": values.pop("loss")}
        return cls(**values)


def _added(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """Add numbers by name."""
    return {name: first.get(name, 0.0) + second.get(name, 0.0) for name in first | second}
