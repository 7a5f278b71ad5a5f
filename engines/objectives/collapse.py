"""A classifier that learns nothing looks busy: its loss falls while it names one class for every video."""

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
    """Warns of validations that show a collapsed classifier, once of each sign.

    Args:
        class_names: to name the class; None for its number.
    """

    def __init__(self, class_names: Sequence[str] | None = None):
        self._class_names = class_names
        self._epochs_at_majority = 0
        self._told: set[str] = set()

    def note(self, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Look at the validation of an epoch: labels and predicted classes, (videos,) each."""
        majority = np.bincount(labels).max()
        if majority == len(labels):
            return
        hits = int((labels == predictions).sum())
        self._epochs_at_majority = self._epochs_at_majority + 1 if hits == majority else 0
        if (predictions == predictions[0]).all():
            name = self._class_names[predictions[0]] if self._class_names else f"class {predictions[0]}"
            self._tell("one class", f"all {len(labels)} videos of the validation were called {name}")
        if self._epochs_at_majority == _EPOCHS:
            top1 = f"{100 * hits / len(labels):.2f} %"
            self._tell("majority", f"for {_EPOCHS} epochs top-1 has been {top1}, the share of the most frequent class")

    def _tell(self, sign: str, sentence: str) -> None:
        if sign not in self._told:
            _logger.warning("%s; %s", sentence, _REMEDIES)
        self._told.add(sign)
