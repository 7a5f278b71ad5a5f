"""The outputs of action detection: CSV, JSON, a table, and an annotated copy of the video."""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.palette import GREY, SERIES
from datasets.detection.keyframe_dataset import KeyframeDataset
from datasets.detection.label_map import LabelMap
from engines.detection_results import csv_lines, detection_rows
from inference.box_drawing import LabelledBox, draw_boxes
from inference.detector import VideoDetections
from inference.video_writer import canvas_size, every_frame, write_h264

LISTED_ACTIONS, DRAWN_ACTIONS = 5, 3
BOX_COLOUR, NAMELESS_COLOUR = SERIES[4], GREY


class DetectionFormatter:
    """Formats detections as text.

    Args:
        classes: Classes, in the order of the scores.
        min_score: Lowest score of the actions in tables and pictures.
    """

    def __init__(self, classes: LabelMap, min_score: float):
        self.classes, self.min_score = classes, min_score

    def csv_lines(self, video: VideoDetections) -> Iterator[str]:
        """Yield a row per box and class, in AVA's columns."""
        return csv_lines(detection_rows(video.records, video.scores, self.classes.ids))

    def record(self, video: VideoDetections) -> dict[str, Any]:
        """Return the detections of a video as plain values for a line of JSON."""
        if video.error is not None:
            return {"path": video.path, "error": video.error.reason}
        return {
            "path": video.path,
            "seconds": [
                {
                    "second": record.second,
                    "persons": [
                        {"box": box.tolist(), "person_score": float(score), "actions": self._top(row)}
                        for box, score, row in zip(record.boxes, record.scores, scores, strict=True)
                    ],
                }
                for record, scores in zip(video.records, video.scores, strict=True)
            ],
            "unreadable": [{"second": second, "reason": reason} for second, reason in video.unreadable.items()],
        }

    def table(self, video: VideoDetections) -> list[str]:
        """Return a line per person with the second, the box, and the actions that score at least `min_score`."""
        boxes = sum(len(record.boxes) for record in video.records)
        lines = [f"{video.path} ({len(video.records)} seconds, {boxes} boxes)"]
        for record, scores in zip(video.records, video.scores, strict=True):
            for box, row in zip(record.boxes, scores, strict=True):
                sides = " ".join(f"{side:.3f}" for side in box)
                lines.append(f"  {record.second:5}  {sides}  {', '.join(self.lines(row)) or '-'}")
        return lines

    def lines(self, scores: np.ndarray) -> list[str]:
        """Return names and scores of the actions that score at least `min_score`, highest first.

        Args:
            scores: Scores of a box, (classes,).
        """
        return [
            f"{action['name']} {action['score']:.2f}"
            for action in self._top(scores)[:DRAWN_ACTIONS]
            if action["score"] >= self.min_score
        ]

    def _top(self, scores: np.ndarray) -> list[dict[str, Any]]:
        order = np.argsort(-scores, kind="stable")[:LISTED_ACTIONS]
        ids, names = self.classes.ids, self.classes.names
        return [{"label": ids[i], "name": names[i], "score": float(scores[i])} for i in order.tolist()]


def annotate_detections(
    video: VideoDetections,
    dataset: KeyframeDataset,
    formatter: DetectionFormatter,
    target: Path,
    *,
    progress: Callable[[Iterable], Iterable] = iter,
) -> None:
    """Write a copy of a video that shows the boxes of a key frame for half a second before and after it.

    The copy has the frame rate at which the detector reads videos.

    Args:
        video: Detections in the video.
        dataset: Opens the video.
        formatter: Formats the actions of a box.
        target: Path of the .mp4 file.
        progress: Wraps the iterator over frames, for a progress bar.

    Raises:
        UnreadableVideoError: Frames cannot be decoded.
    """
    reader = dataset.open_record(video.records[0])
    named = {
        dataset.key_frame(record, len(reader)): [
            LabelledBox(box, lines := formatter.lines(row), BOX_COLOUR if lines else NAMELESS_COLOUR)
            for box, row in zip(record.boxes, scores, strict=True)
        ]
        for record, scores in zip(video.records, video.scores, strict=True)
    }
    keys = np.array(list(named))
    size = canvas_size(reader.read([0]).shape[1:3])

    def pictures() -> Iterator[np.ndarray]:
        for number, frame in enumerate(progress(every_frame(reader))):
            picture = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
            nearest = int(keys[np.abs(keys - number).argmin()])
            if abs(nearest - number) <= dataset.fps / 2:
                draw_boxes(picture, named[nearest])
            yield np.asarray(picture)

    write_h264(target, pictures(), size, Fraction(dataset.fps).limit_denominator(10_000))
