"""Action detection: multi-label classification of boxes, binary cross entropy, frame mAP."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.collate import clips_on
from datasets.detection.annotations import Keyframe
from datasets.detection.label_map import LabelMap
from datasets.transforms import finish
from engines.ava_evaluation import frame_map
from engines.detection_results import csv_lines, describe_detections, detection_rows, truth_rows
from engines.objectives.base import Objective, Score, to_device
from engines.settings import DetectionTestSettings
from models.detection import ActionDetector


class Detection(Objective):
    """A detector that is given the boxes of persons and scores the actions of each.

    Args:
        model: Maps clips and boxes to logits of the boxes.
        label_map: Classes, in the order of the logits.
        settings: Settings of the evaluation; None for the defaults.
        excluded: Videos and seconds that are not evaluated.
        about: Additional entries of results.json.
    """

    score = Score("map")
    fixed_shapes = False  # every clip has another number of boxes

    def __init__(
        self,
        model: ActionDetector,
        label_map: LabelMap,
        settings: DetectionTestSettings | None = None,
        *,
        excluded: Iterable[tuple[str, int]] = (),
        about: Mapping[str, Any] | None = None,
    ):
        super().__init__(model)
        self.label_map = label_map
        self.settings = settings or DetectionTestSettings()
        self.excluded, self.about = frozenset(excluded), dict(about or {})

    def count(self, batch: dict) -> int:
        """Return the number of boxes."""
        return sum(len(target["boxes"]) for target in batch["targets"])

    def prepare(self, batch: dict, device: torch.device) -> dict:
        """Move clips, a list of their boxes (n_i, 4) and the labels of all boxes (n, classes) to the device."""
        return {
            "clips": clips_on(device, batch),
            "boxes": to_device([target["boxes"] for target in batch["targets"]], device),
            "labels": torch.cat([target["labels"] for target in batch["targets"]]).to(device, non_blocking=True),
        }

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Compute the binary cross entropy, a mean over boxes and classes; 0 if there are no boxes."""
        logits = self.model(batch["clips"], batch["boxes"]).float()
        total = F.binary_cross_entropy_with_logits(logits, batch["labels"], reduction="sum")
        return {"loss": total / max(1, logits.numel())}

    def predict(self, clips: Tensor, boxes: list[Tensor] | None = None) -> Tensor:
        """Return the scores (n, classes), float32, 0 to 1, of the boxes of all clips.

        Raises:
            ValueError: No boxes are given.
        """
        if boxes is None:
            raise ValueError("an action detector needs boxes, a tensor (n, 4) for each clip")
        return self.model(clips, boxes).float().sigmoid()

    def outputs(self, batch: dict, device: torch.device, *, clips_per_forward: int) -> list[np.ndarray]:
        """Return the scores (n, classes) of the boxes of each clip; arguments as in `Objective.outputs`."""
        clips, targets, outputs = batch["clips"], batch["targets"], []
        for start in range(0, len(clips), clips_per_forward):
            part = slice(start, start + clips_per_forward)
            boxes = to_device([target["boxes"] for target in targets[part]], device)
            scores = self.predict(finish(clips[part].to(device, non_blocking=True)), boxes).cpu()
            outputs += scores.split([len(of_clip) for of_clip in boxes])
        if self.settings.person_score == "multiply":
            outputs = [scores * target["scores"][:, None] for scores, target in zip(outputs, targets, strict=True)]
        return [scores.numpy() for scores in outputs]

    def figures(self, outputs: np.ndarray | list, records: Sequence) -> dict[str, float]:
        """Return the mean average precision at IoU 0.5, 0 to 1, of the classes with ground truth."""
        return {"map": self._frame_map(*self._rows(outputs, records))[0]}

    def describe(self, figures: dict[str, float]) -> str:
        """Format the mean average precision for a log line."""
        return f"mAP {100 * figures['map']:.2f} %"

    def results(self, evaluation) -> dict[str, Any]:
        """Return the settings of the test and the results per class."""
        truth, found = self._rows(evaluation.outputs, evaluation.records)
        _, ap = self._frame_map(truth, found)
        names = dict(zip(self.label_map.ids, self.label_map.names, strict=True))
        return self.about | evaluation.figures | describe_detections(truth, found, ap, names)

    def arrays(self, evaluation) -> dict[str, np.ndarray]:
        """Return the number of `boxes` of each key frame, (key frames,), and their `scores`, (all boxes, classes)."""
        counts = np.array([len(scores) for scores in evaluation.outputs])
        return {"boxes": counts, "scores": np.concatenate(evaluation.outputs)}

    def files(self, evaluation) -> dict[str, Iterable[str]]:
        """Return the lines of detections.csv."""
        return {"detections.csv": csv_lines(self._rows(evaluation.outputs, evaluation.records)[1])}

    def _rows(self, outputs: np.ndarray | list, records: Sequence) -> tuple[np.ndarray, np.ndarray]:
        """Return ground truth and detections in AVA's columns."""
        return truth_rows(records), detection_rows(records, outputs, self.label_map.ids)

    def _frame_map(self, truth: np.ndarray, found: np.ndarray) -> tuple[float, dict[int, float | None]]:
        """Return the mean average precision and the average precision of each class id."""
        rows = self.settings.max_rows_per_frame
        return frame_map(truth, found, self.label_map.ids, excluded=self.excluded, max_rows_per_frame=rows)


def class_frequencies(records: Sequence[Keyframe], label_map: LabelMap) -> Tensor:
    """Return the fraction of boxes that have each class, (classes,), smoothed so that none is exactly 0 or 1.

    Args:
        records: Key frames; the boxes and labels of their targets are counted.
        label_map: Classes.
    """
    marks = [label_map.multi_hot(record.target["labels"]) for record in records]
    found, boxes = sum(of_one.sum(0) for of_one in marks), sum(map(len, marks))
    return torch.as_tensor((found + 0.5) / (boxes + 1))
