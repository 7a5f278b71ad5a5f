"""Action detection: several classes for each box, binary cross entropy, mean average precision of frames."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.flag_types import non_negative_int
from common.settings import option
from datasets.collate import clips_on
from datasets.detection.annotations import Keyframe
from datasets.detection.label_map import LabelMap
from datasets.transforms import finish
from engines.ava_evaluation import frame_map
from engines.detection_results import csv_lines, describe_detections, detection_rows, truth_rows
from engines.objectives.base import Objective, Score, to_device
from models.detection import ActionDetector


@dataclass(frozen=True)
class DetectionTestSettings:
    """How the scores of boxes are judged."""

    person_score: str = option(
        "multiply",
        "what the person detector's score of a box is to its scores: a factor, as in VideoMAE, or ignored, as in "
        "SlowFast",
        choices=("multiply", "ignore"),
    )
    max_rows_per_frame: int = option(
        0,
        "judge the best rows of each second alone: AVA's official script takes 50, published code all (default: 0, "
        "all)",
        non_negative_int,
    )


class Detection(Objective):
    """A detector that is told where the persons are and scores what each of them does.

    Args:
        model: clips and boxes -> logits of the boxes.
        label_map: the classes, in the order of the logits.
        settings: of a test.
        excluded: videos and seconds that do not count in it.
        about: what was tested and how, for results.json.
    """

    score = Score("map")

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
        """Bring clips, a list of their boxes (n_i, 4) and the labels of all boxes (n, classes) to the device."""
        return {
            "clips": clips_on(device, batch),
            "boxes": to_device([target["boxes"] for target in batch["targets"]], device),
            "labels": torch.cat([target["labels"] for target in batch["targets"]]).to(device, non_blocking=True),
        }

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Compute the mean over boxes and classes of binary cross entropy; 0 where there are no boxes."""
        logits = self.model(batch["clips"], batch["boxes"]).float()
        total = F.binary_cross_entropy_with_logits(logits, batch["labels"], reduction="sum")
        return {"loss": total / max(1, logits.numel())}

    def predict(self, clips: Tensor, boxes: list[Tensor] | None = None) -> Tensor:
        """Return the scores (n, classes), 0 to 1, of the boxes of all clips, float32.

        Raises:
            ValueError: there are no boxes.
        """
        if boxes is None:
            raise ValueError("an action detector needs boxes, a tensor (n, 4) for each clip")
        return self.model(clips, boxes).float().sigmoid()

    def outputs(self, batch: dict, device: torch.device, *, clips_per_forward: int) -> list[np.ndarray]:
        """Return the scores (n, classes) of the boxes of each clip, with those of the person detector in them."""
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
        """Return the mean average precision at IoU 0.5, from 0 to 1, over the classes that the records have."""
        return {"map": self._judge(*self._rows(outputs, records))[0]}

    def describe(self, figures: dict[str, float]) -> str:
        """Say the mean average precision in a log line."""
        return f"mAP {100 * figures['map']:.2f} %"

    def results(self, evaluation) -> dict[str, Any]:
        """Return what was tested and how, and what is told by class."""
        truth, found = self._rows(evaluation.outputs, evaluation.records)
        _, ap = self._judge(truth, found)
        names = dict(zip(self.label_map.ids, self.label_map.names, strict=True))
        return self.about | evaluation.figures | describe_detections(truth, found, ap, names)

    def arrays(self, evaluation) -> dict[str, np.ndarray]:
        """Return `boxes` (videos,), how many a key frame has, and their `scores` (all boxes, classes)."""
        counts = np.array([len(scores) for scores in evaluation.outputs])
        return {"boxes": counts, "scores": np.concatenate(evaluation.outputs)}

    def files(self, evaluation) -> dict[str, Iterable[str]]:
        """Return detections.csv."""
        return {"detections.csv": csv_lines(self._rows(evaluation.outputs, evaluation.records)[1])}

    def _rows(self, outputs: np.ndarray | list, records: Sequence) -> tuple[np.ndarray, np.ndarray]:
        """Return ground truth and detections in AVA's columns."""
        return truth_rows(records), detection_rows(records, outputs, self.label_map.ids)

    def _judge(self, truth: np.ndarray, found: np.ndarray) -> tuple[float, dict[int, float | None]]:
        """Return the mean average precision, and that of each class id."""
        rows = self.settings.max_rows_per_frame
        return frame_map(truth, found, self.label_map.ids, excluded=self.excluded, max_rows_per_frame=rows)


def class_frequencies(records: Sequence[Keyframe], label_map: LabelMap) -> Tensor:
    """Return which share of all boxes has each class, (classes,), between 0 and 1: none has quite none, or quite all.

    Args:
        records: their `target`s are counted.
        label_map: the classes.
    """
    marks = [label_map.multi_hot(record.target["labels"]) for record in records]
    found, boxes = sum(of_one.sum(0) for of_one in marks), sum(map(len, marks))
    return torch.as_tensor((found + 0.5) / (boxes + 1))
