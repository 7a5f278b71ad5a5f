"""Regression: numbers of a clip, standardised by the training list for the loss and for nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.collate import clips_on
from engines.loss_settings import PLAIN_LOSS, LossSettings
from engines.objectives.base import Objective, Score
from engines.objectives.regression_statistics import of_target, worst_misses

LOSSES = {"mse": F.mse_loss, "huber": F.huber_loss, "l1": F.l1_loss}


class Regression(Objective):
    """A network that predicts the numbers of a clip.

    Mean and standard deviation of the training targets, `target_mean` and `target_scale` (targets,), are saved with
    the weights; everything but the loss is in the units of the list.

    Args:
        model: clips (N, C, T, H, W) -> standardised targets (N, num_targets).
        num_targets: width of the output.
        settings: loss of the training; None for the mean squared error.
        targets: targets of the training clips, (clips, num_targets); empty if the statistics are loaded.
        target_names: for results.json; None for none.
    Raises:
        ValueError: a target is the same number in all training clips.
    """

    score = Score("error", higher_is_better=False)
    target_mean: Tensor
    target_scale: Tensor

    def __init__(
        self,
        model: nn.Module,
        num_targets: int,
        settings: LossSettings | None = None,
        *,
        targets: Sequence[Sequence[float]] = (),
        target_names: Sequence[str] | None = None,
    ):
        super().__init__(model)
        self.loss = LOSSES[(settings or PLAIN_LOSS).regression_loss]
        self.num_targets, self.target_names = num_targets, target_names
        mean, scale = _statistics(np.array(targets, dtype=np.float64)) if len(targets) else ([0.0], [1.0])
        self.register_buffer("target_mean", torch.tensor(mean, dtype=torch.float64).expand(num_targets).clone())
        self.register_buffer("target_scale", torch.tensor(scale, dtype=torch.float64).expand(num_targets).clone())

    def prepare(self, batch: dict, device: torch.device) -> dict:
        """Move clips and standardised targets (N, targets) to the device."""
        targets = torch.tensor(batch["targets"], dtype=torch.float64).reshape(-1, self.num_targets)
        standardised = (targets - self.target_mean.cpu()) / self.target_scale.cpu()
        return {"clips": clips_on(device, batch), "targets": standardised.float().to(device, non_blocking=True)}

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Compute the loss of prepared clips, a mean over clips and targets."""
        return {"loss": self.loss(self.model(batch["clips"]).float(), batch["targets"])}

    def predict(self, clips: Tensor) -> Tensor:
        """Return the predicted targets (n, targets) of single views, float64, in the units of the list."""
        return super().predict(clips).double() * self.target_scale + self.target_mean

    def beyond_the_model(self) -> dict[str, Any]:
        """Return mean and standard deviation of the training targets."""
        return {"target_mean": self.target_mean.tolist(), "target_scale": self.target_scale.tolist()}

    def figures(self, outputs: np.ndarray, records: Sequence) -> dict[str, float]:
        """Return the error and, for each target, mae, mse, r2, pearson and spearman.

        The error is the squared error in units of the training targets' variance, a mean over the targets: 1 is what
        their mean as a constant prediction has on the training list. With several targets, the names of the other
        figures end in the name of the target.
        """
        targets = _targets(records)
        scale = self.target_scale.cpu().numpy()
        figures = {"error": float((((outputs - targets) / scale) ** 2).mean())}
        for place, name in enumerate(self._names()):
            suffix = f"_{name}" if self.num_targets > 1 else ""
            found = of_target(targets[:, place], outputs[:, place])
            figures |= {f"{figure}{suffix}": value for figure, value in found.items()}
        return figures

    def describe(self, figures: dict[str, float]) -> str:
        """Format the metrics for a log line."""
        words = [f"{name} {value:.4g}" for name, value in figures.items()]
        return ", ".join(words[:6]) + (", ..." if len(words) > 6 else "")

    def results(self, evaluation) -> dict[str, Any]:
        """Return metrics per target, with those of the training mean as a constant, and predictions per video."""
        targets, outputs = _targets(evaluation.records), evaluation.outputs
        mean, scale = self.target_mean.cpu().numpy(), self.target_scale.cpu().numpy()
        constant = [
            of_target(column, np.full(len(column), value)) for column, value in zip(targets.T, mean, strict=True)
        ]
        return {
            "task": "regression",
            "error": evaluation.figures["error"],
            "target_names": self._names(),
            "targets": [
                {"name": name, "training_mean": float(mean[place]), "training_deviation": float(scale[place])}
                | of_target(targets[:, place], outputs[:, place])
                | {"constant_mae": constant[place]["mae"], "constant_mse": constant[place]["mse"]}
                for place, name in enumerate(self._names())
            ],
            "worst_misses": [
                _prediction(evaluation.records[place], outputs[place]) | {"path": str(evaluation.records[place].path)}
                for place in worst_misses(targets, outputs, scale)
            ],
            "predictions": [_prediction(record, row) for record, row in zip(evaluation.records, outputs, strict=True)],
        }

    def arrays(self, evaluation) -> dict[str, np.ndarray]:
        """Return `targets` and `predictions`, both float64 (videos, targets), in the units of the list."""
        return {"targets": _targets(evaluation.records), "predictions": evaluation.outputs}

    def _names(self) -> list[str]:
        if self.target_names:
            return list(self.target_names)
        return ["target"] if self.num_targets == 1 else [f"target {place}" for place in range(self.num_targets)]


def _statistics(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the columns of (clips, targets)."""
    mean, scale = targets.mean(0), targets.std(0)
    constant = np.flatnonzero(targets.min(0) == targets.max(0))
    if len(constant):
        raise ValueError(
            f"target {constant[0]} of the training list is {targets[0, constant[0]]:g} in all {len(targets)} clips: "
            "there is nothing to learn; check the column of the labels"
        )
    return mean, scale


def _targets(records: Sequence) -> np.ndarray:
    return np.array([record.target for record in records], dtype=np.float64)


def _prediction(record, row: np.ndarray) -> dict[str, Any]:
    return {"line": record.line, "target": list(record.target), "prediction": row.tolist()}
