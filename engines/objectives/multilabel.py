"""Several labels per clip: a sigmoid for each class, binary cross entropy, average precision, F1 at a threshold."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor, nn

from datasets.collate import clips_on
from engines.loss_settings import PLAIN_LOSS, LossSettings
from engines.objectives.base import Objective, Score
from engines.objectives.mixing import create_mixup
from engines.objectives.multilabel_statistics import (
    average_precisions,
    best_threshold,
    f1_figures,
    mean_loss,
    per_class,
    worst_mistakes,
)

UNCHOSEN_THRESHOLD = 0.5


class Multilabel(Objective):
    """A classifier of clips that may have any number of classes.

    The threshold above which a class counts as predicted is chosen by each validation, as the one with the highest F1
    over all decisions, and saved with the weights (`decision_threshold`, NaN before the first validation).

    Args:
        model: clips (N, C, T, H, W) -> logits (N, num_classes).
        num_classes: width of the logits.
        settings: mixing, smoothing and loss of the training; None for plain binary cross entropy.
        view_merge: "mean" or "max" of the scores over the views of a clip.
        class_names: for results.json; None for none.
    """

    score = Score("mean_ap")
    decision_threshold: Tensor

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        settings: LossSettings | None = None,
        *,
        view_merge: str = "mean",
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(model)
        settings = settings or PLAIN_LOSS
        self.num_classes, self.class_names, self.view_merge = num_classes, class_names, view_merge
        self.smoothing = settings.smoothing
        self.mixup = create_mixup(replace(settings, smoothing=0.0), num_classes)
        asymmetric = settings.multilabel_loss == "asymmetric"
        self.criterion = AsymmetricLossMultiLabel() if asymmetric else nn.BCEWithLogitsLoss()
        self.criterion.reduction = "sum"  # timm's first releases of the asymmetric loss sum, and know no other
        self.register_buffer("decision_threshold", torch.tensor(torch.nan))

    @property
    def threshold(self) -> float:
        """Score from which a class counts as predicted."""
        chosen = float(self.decision_threshold)
        return UNCHOSEN_THRESHOLD if np.isnan(chosen) else chosen

    @torch.no_grad()
    def expect(self, targets: Sequence[Sequence[int]]) -> None:
        """Start a new head from the shares of the training clips with each class, which the loss would learn first."""
        head = getattr(self.model, "head", None)
        if isinstance(head, nn.Linear) and not head.bias.any():
            found = multi_hot(targets, self.num_classes).sum(0)
            head.bias.copy_(((found + 0.5) / (len(targets) + 1)).logit())

    def prepare(self, batch: dict, device: torch.device) -> dict:
        """Move clips and multi-hot labels (N, classes) to the device; in training, mix and smooth them.

        Smoothing moves the same share to all classes as it does for clips with one label.
        """
        clips = clips_on(device, batch)
        labels = multi_hot(batch["targets"], self.num_classes).to(device, non_blocking=True)
        if self.training:
            if self.mixup is not None:
                clips, labels = self.mixup.mix_rows(clips, labels)
            labels = labels * (1 - self.smoothing) + self.smoothing / self.num_classes
        return {"clips": clips, "targets": labels}

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Compute the loss of prepared clips, a mean over clips and classes."""
        logits = self.model(batch["clips"]).float()
        return {"loss": self.criterion(logits, batch["targets"]) / max(1, logits.numel())}

    def predict(self, clips: Tensor) -> Tensor:
        """Return the scores (n, classes) of single views, float32, 0 to 1."""
        return super().predict(clips).sigmoid()

    def merge_views(self, outputs: Tensor) -> Tensor:
        """Return the mean or the maximum over views: (videos, views, classes) -> (videos, classes)."""
        return outputs.amax(1) if self.view_merge == "max" else outputs.mean(1)

    def after_validation(self, evaluation) -> dict[str, float]:
        """Choose the threshold, and return the F1 that it gives."""
        labels = self._labels(evaluation.records)
        self.decision_threshold.fill_(best_threshold(labels, evaluation.outputs))
        return f1_figures(labels, evaluation.outputs >= self.threshold)

    def beyond_the_model(self) -> dict[str, Any]:
        """Return the threshold, and how views are merged."""
        return {"decision_threshold": self.threshold, "view_merge": self.view_merge}

    def figures(self, outputs: np.ndarray, records: Sequence) -> dict[str, float]:
        """Return the mean average precision, F1 over all decisions and as a mean of classes (0 to 1), and the loss.

        Classes without positives have no part in the means.

        Raises:
            ValueError: no clip has a label.
        """
        labels = self._labels(records)
        if not labels.any():
            raise ValueError("no clip of this list has a label, so there is no average precision; use another list")
        found = average_precisions(labels, outputs)
        return {
            "mean_ap": float(np.nanmean(found)),
            **f1_figures(labels, outputs >= self.threshold),
            "loss": mean_loss(labels, outputs),
        }

    def describe(self, figures: dict[str, float]) -> str:
        """Format the metrics for a log line."""
        return (
            f"mAP {100 * figures['mean_ap']:.2f} %, F1 {100 * figures['micro_f1']:.2f} % over all decisions, "
            f"{100 * figures['macro_f1']:.2f} % as a mean of classes"
        )

    def results(self, evaluation) -> dict[str, Any]:
        """Return metrics, threshold, and statistics per class and per video."""
        labels, scores = self._labels(evaluation.records), evaluation.outputs
        rows = per_class(labels, scores, self.threshold)
        shares = [row["share"] for row in rows if row["positives"]]
        return {
            "task": "multilabel",
            **evaluation.figures,
            "prior": float(np.mean(shares)),
            "num_classes": self.num_classes,
            "label_names": self.class_names,
            "view_merge": self.view_merge,
            "threshold": self.threshold,
            "threshold_from": "default" if self.decision_threshold.isnan() else "validation",
            "without_positives": [row["label"] for row in rows if not row["positives"]],
            "per_class": rows,
            "worst_mistakes": [
                {"path": str(evaluation.records[place].path), "line": evaluation.records[place].line}
                | {"label": int(label), "positive": bool(labels[place, label]), "score": float(scores[place, label])}
                for place, label in worst_mistakes(labels, scores, self.threshold)
            ],
            "predictions": [
                {"line": record.line, "labels": list(record.target), "predicted": np.flatnonzero(row).tolist()}
                for record, row in zip(evaluation.records, scores >= self.threshold, strict=True)
            ],
        }

    def arrays(self, evaluation) -> dict[str, np.ndarray]:
        """Return `labels`, multi-hot uint8, and `scores`, float32, both (videos, classes)."""
        return {"labels": self._labels(evaluation.records).astype(np.uint8), "scores": evaluation.outputs}

    def _labels(self, records: Sequence) -> np.ndarray:
        """Return the labels of records, bool (videos, classes)."""
        return multi_hot([record.target for record in records], self.num_classes).numpy().astype(bool)


def multi_hot(targets: Sequence[Sequence[int]], num_classes: int) -> Tensor:
    """Return a row of zeros and ones for each tuple of classes, float32 (n, num_classes)."""
    rows = torch.zeros(len(targets), num_classes)
    for row, classes in zip(rows, targets, strict=True):
        row[list(classes)] = 1
    return rows
