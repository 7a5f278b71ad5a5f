"""The report of an action detection test: all classes, and key frames of the best and worst ones."""

import logging
from collections.abc import Sequence

import numpy as np
from PIL import Image

from common.palette import SERIES
from inference.box_drawing import LabelledBox, draw_boxes
from reports.media import Picture, webp

_logger = logging.getLogger(__name__)

HEIGHT = 240  # pixels of a key frame
HIT, FALSE, TRUTH = SERIES[2], SERIES[1], "#ffffff"


def detection_section(results: dict, dataset, problem: str | None) -> dict:
    """Return the variables of detection.html.

    Args:
        results: Contents of results.json.
        dataset: The `KeyframeDataset` that was tested; None if the videos are not available.
        problem: Why there is no dataset.
    """
    pictures = KeyframePictures(dataset, problem)
    rows = [
        {"class": name, "ap": ap, "ground_truth_boxes": results["ground_truth_boxes"][name]}
        for name, ap in sorted(
            results["ap"].items(), key=lambda item: -1 if item[1] is None else item[1], reverse=True
        )
    ]
    examples = {
        row["class"]: [
            example | {"still": pictures.still(example)}
            for example in results["examples"]
            if example["name"] == row["class"]
        ]
        for row in rows
    }
    return {
        "classes_by_ap": rows,
        "evaluated_classes": sum(row["ap"] is not None for row in rows),
        "examples_by_class": {name: shown for name, shown in examples.items() if shown},
    }


class KeyframePictures:
    """Pictures of key frames with boxes.

    Args:
        dataset: A `KeyframeDataset`; None if the videos are not available.
        problem: Why there is no dataset.
    """

    def __init__(self, dataset, problem: str | None = None):
        self._dataset, self._problem = dataset, problem
        self._records = (
            {} if dataset is None else {(record.video, record.second): record for record in dataset.records}
        )

    def still(self, example: dict) -> Picture:
        """Return the key frame of an example of results.json with its box and the ground truth of its class."""
        video, second = example["video"], example["second"]
        record = self._records.get((video, second))
        if record is None:
            return Picture(None, self._problem or f"the list has no second {second} of {video}")
        try:
            reader = self._dataset.open_record(record)
            (frame,) = reader.read([self._dataset.key_frame(record, len(reader))])
            boxes = [*self._truth(record, example["name"]), _detected(example)]
            return Picture(webp(key_frame_picture(frame, boxes)))
        except Exception as error:  # the page shows the message instead of the picture
            _logger.debug("no picture of %s", record.path, exc_info=True)
            return Picture(None, str(error))

    def _truth(self, record, name: str) -> list[LabelledBox]:
        label_map = self._dataset.label_map
        action = label_map.ids[label_map.names.index(name)]
        persons = zip(record.target["boxes"], record.target["labels"], strict=True)
        return [LabelledBox(box, (), TRUTH) for box, actions in persons if action in actions]


def _detected(example: dict) -> LabelledBox:
    return LabelledBox(example["box"], [f"{example['score']:.2f}"], HIT if example["hit"] else FALSE)


def key_frame_picture(frame: np.ndarray, boxes: Sequence[LabelledBox]) -> Image.Image:
    """Resize a frame, uint8 (H, W, 3), for the report and draw boxes onto it."""
    height, width = frame.shape[:2]
    picture = Image.fromarray(frame).resize((max(1, round(width * HEIGHT / height)), HEIGHT), Image.Resampling.BICUBIC)
    draw_boxes(picture, boxes)
    return picture
