"""Detection of classifiers that learn nothing: their loss falls, but they assign every video to the same class."""

import logging
from collections.abc import Sequence

import numpy as np

_logger = logging.getLogger(__name__)

_EPOCHS = 3
_REMEDIES = (
    "what usually helps: pretrained weights (--finetune), a learning rate ten times higher or lower (--lr), "
    "more epochs, and labels that fit the videos (python -m tools.check_data)"
)


class CollapseCheck:
    """Warn about a collapsed classifier, at most once per symptom.

    Args:
        class_names: Names of the classes; None for their numbers.
    """

    def __init__(self, class_names: Sequence[str] | None = None):
        self._class_names = class_names
        self._epochs_at_majority = 0
        self._reported: set[str] = set()

    def update(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Examine the validation of an epoch.

        Args:
            labels: (videos,) true classes.
            predictions: (videos,) predicted classes.
        """
        majority = np.bincount(labels).max()
        if majority == len(labels):
            return
        hits = int((labels == predictions).sum())
        self._epochs_at_majority = self._epochs_at_majority + 1 if hits == majority else 0
        if (predictions == predictions[0]).all():
            name = self._class_names[predictions[0]] if self._class_names else f"class {predictions[0]}"
            self._warn_once("one class", f"all {len(labels)} validation videos were assigned to {name}")
        if self._epochs_at_majority == _EPOCHS:
            top1 = f"{100 * hits / len(labels):.2f} %"
            self._warn_once(
                "majority", f"for {_EPOCHS} epochs top-1 has been {top1}, the share of the most frequent class"
            )

    def _warn_once(self, symptom: str, sentence: str) -> None:
        if symptom not in self._reported:
            _logger.warning("%s; %s", sentence, _REMEDIES)
        self._reported.add(symptom)
