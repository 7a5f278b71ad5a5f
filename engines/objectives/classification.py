"""Classification: one label per clip, cross entropy, and accuracies of probabilities averaged over views."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.loss_settings import PLAIN_LOSS, LossSettings
from engines.objectives.base import Objective, Score
from engines.objectives.class_statistics import calibration, most_confused, per_class, worst_mistakes
from engines.objectives.collapse import CollapseCheck
from engines.objectives.mixing import create_criterion, create_mixup


class Classification(Objective):
    """A classifier of clips.

    Args:
        model: clips (N, C, T, H, W) -> logits (N, num_classes).
        num_classes: width of the logits.
        settings: mixing, smoothing and class weights of the training loss; None for plain cross entropy.
        labels: labels of the training clips, 0 to num_classes - 1, to compute class weights from.
        class_names: for results.json; None for none.
    Raises:
        ValueError: settings contradict each other.
    """

    score = Score("acc1")

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        settings: LossSettings | None = None,
        *,
        labels: Iterable[int] = (),
        class_names: Sequence[str] | None = None,
    ):
        super().__init__(model)
        settings = settings or PLAIN_LOSS
        self.num_classes, self.class_names = num_classes, class_names
        self.mixup = create_mixup(settings, num_classes)
        self.criterion = create_criterion(settings, self.mixup, labels, num_classes)
        self._collapse = CollapseCheck(class_names)
        self._trained = False  # since the last validation; always False for the EMA

    def prepare(self, batch: dict, device: torch.device) -> dict:
        """Move clips and labels to the device; in training, mix them, which gives soft targets (N, classes)."""
        self._trained = self._trained or self.training
        prepared = super().prepare(batch, device)
        if not self.training:
            return prepared
        further = self.further_targets(batch, device)
        if self.mixup is not None:
            prepared["clips"], prepared["targets"], *rows = self.mixup(
                prepared["clips"], prepared["targets"], *further.values()
            )
            further = dict(zip(further, rows, strict=True))
        return prepared | further

    def further_targets(self, batch: dict, device: torch.device) -> dict[str, Tensor]:
        """Return targets of further losses, name -> (N, width), which are mixed as the labels are; none by default."""
        return {}

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Compute the loss of prepared clips (N, C, T, H, W) and targets."""
        return {"loss": self.loss(self.model(batch["clips"]), batch["targets"])}

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits (N, classes): that of the settings in training, else plain cross entropy."""
        criterion = self.criterion if self.training else F.cross_entropy
        return criterion(logits.float(), targets)

    def predict(self, clips: Tensor) -> Tensor:
        """Return log-probabilities (n, classes) of single views, float32."""
        return super().predict(clips).log_softmax(-1)

    def merge_views(self, outputs: Tensor) -> Tensor:
        """Return the log of the mean probability over views: (videos, views, classes) -> (videos, classes).

        It stays a logarithm, so that the loss of a confident mistake stays finite.
        """
        return outputs.logsumexp(1) - np.log(outputs.shape[1])

    def figures(self, outputs: np.ndarray, records: Sequence) -> dict[str, float]:
        """Return top-1 and top-5 accuracy in percent, and the mean of -log(probability of the label).

        Top-5 is 100 with five classes or fewer.
        """
        labels = self._checked_labels(outputs, records)
        ranking = self._ranking(outputs)
        if self._trained:
            self._collapse.update(labels, ranking[:, 0])
            self._trained = False
        hits = ranking == labels[:, None]
        return {
            "acc1": 100.0 * float(hits[:, 0].mean()),
            "acc5": 100.0 * float(hits.any(axis=1).mean()),
            "loss": float(-outputs[np.arange(len(labels)), labels].mean(dtype=np.float64)),
        }

    def describe(self, figures: dict[str, float]) -> str:
        """Format the accuracies for a log line; top-5 is left out with five classes or fewer."""
        top5 = f", top-5 {figures['acc5']:.2f} %" if self.num_classes > 5 else ""
        return f"top-1 {figures['acc1']:.2f} %{top5}"

    def results(self, evaluation) -> dict:
        """Return accuracies, calibration, the confusion matrix, and statistics per class and per video."""
        from sklearn.metrics import confusion_matrix  # the import takes a second

        labels, predictions, scores = self.decisions(evaluation)
        counts = confusion_matrix(labels, predictions, labels=range(self.num_classes))
        return {
            "task": "classification",
            "top1": evaluation.figures["acc1"],
            "top5": evaluation.figures["acc5"],
            "loss": evaluation.figures["loss"],
            "classes": self.num_classes,
            "label_names": self.class_names,
            "calibration": calibration(labels, predictions, scores),
            "per_class": per_class(labels, predictions, self.num_classes),
            "most_confused": most_confused(counts),
            "worst_mistakes": [
                _decision(evaluation.records[place], int(labels[place]), int(predictions[place]), scores[place])
                for place in worst_mistakes(labels, predictions, scores)
            ],
            "confusion_matrix": counts.tolist(),
            "predictions": [
                {
                    "line": record.line,
                    "label": int(label),
                    "prediction": int(prediction),
                    "confidence": round(float(row[prediction]), 6),
                }
                for record, label, prediction, row in zip(evaluation.records, labels, predictions, scores, strict=True)
            ],
        }

    def arrays(self, evaluation) -> dict[str, np.ndarray]:
        """Return `label` (videos,) and `scores` (videos, classes), float32 probabilities."""
        labels, _, scores = self.decisions(evaluation)
        return {"label": labels, "scores": scores}

    def decisions(self, evaluation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return labels (videos,), predicted classes (videos,) and mean probabilities (videos, classes)."""
        labels = np.array([record.target for record in evaluation.records])
        return labels, self._ranking(evaluation.outputs)[:, 0], np.exp(evaluation.outputs)

    def _ranking(self, outputs: np.ndarray) -> np.ndarray:
        """Return the five most probable classes of each video, best first: (videos, at most 5)."""
        return torch.from_numpy(outputs).topk(min(5, self.num_classes)).indices.numpy()

    def _checked_labels(self, outputs: np.ndarray, records: Sequence) -> np.ndarray:
        """Return the labels (videos,); raise a ValueError if they do not fit the outputs."""
        if outputs.shape[1] != self.num_classes:
            raise ValueError(
                f"the model has {outputs.shape[1]} outputs per clip, but there are {self.num_classes} classes"
            )
        for record in records:
            if not 0 <= record.target < self.num_classes:
                raise ValueError(
                    f"line {record.line}: {record.path} has label {record.target}, but the model has "
                    f"{self.num_classes} classes, counted from 0; check the list and --nb_classes"
                )
        return np.array([record.target for record in records])


def _decision(record, label: int, prediction: int, scores: np.ndarray) -> dict:
    """Return a video's file, label and prediction, with the probabilities of both."""
    return {
        "path": str(record.path),
        "line": record.line,
        "label": label,
        "prediction": prediction,
        "confidence": float(scores[prediction]),
        "label_probability": float(scores[label]),
    }
