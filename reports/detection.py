"""What the page shows of a test of action detection: the classes, and key frames of the best and the worst of them."""

import io
import logging
from collections.abc import Sequence

import numpy as np
from PIL import Image

from inference.box_drawing import NamedBox, draw_boxes
from reports.media import QUALITY, Picture, data_uri

_logger = logging.getLogger(__name__)

HEIGHT = 240  # pixels of a key frame
HIT, FALSE, TRUTH = "#009e73", "#d55e00", "#ffffff"


def detection_section(results: dict, dataset, problem: str | None) -> dict:
    """Prepare the part of the page that is told by class.

    Args:
        results: of results.json.
        dataset: a `KeyframeDataset` that was tested; None where the videos are out of reach.
        problem: why there is none.
    """
    pictures = KeyframePictures(dataset, problem)
    ranked = sorted(
        (name for name, ap in results["ap"].items() if ap is not None), key=lambda name: -results["ap"][name]
    )
    shown = [name for name in ranked if any(example["name"] == name for example in results["examples"])]
    return {
        "classes_by_ap": ranked + [name for name, ap in results["ap"].items() if ap is None],
        "shown_classes": [
            {
                "name": name,
                "examples": [
                    example | {"still": pictures.still(example)}
                    for example in results["examples"]
                    if example["name"] == name
                ],
            }
            for name in shown
        ],
    }


class KeyframePictures:
    """Key frames with boxes, by video and second.

    Args:
        dataset: a `KeyframeDataset`, or None where the videos are out of reach.
        problem: why there is none.
    """

    def __init__(self, dataset, problem: str | None = None):
        self._dataset, self._problem = dataset, problem
        self._records = {} if dataset is None else {(one.video, one.second): one for one in dataset.records}

    def still(self, example: dict) -> Picture:
        """The key frame of an example of results.json, as WebP: its box, and those of the class's ground truth."""
        video, second = example["video"], example["second"]
        record = self._records.get((video, second))
        if record is None:
            return Picture(None, self._problem or f"the list has no second {second} of {video}")
        try:
            reader = self._dataset.open_record(record)
            (frame,) = reader.read([self._dataset.key_frame(record, len(reader))])
            return Picture(_webp(frame, [*self._truth(record, example["name"]), _detected(example)]))
        except Exception as error:  # a video that cannot be shown is told in its place, and the page goes on
            _logger.debug("no picture of %s", record.path, exc_info=True)
            return Picture(None, str(error))

    def _truth(self, record, name: str) -> list[NamedBox]:
        label_map = self._dataset.label_map
        action = label_map.ids[label_map.names.index(name)]
        persons = zip(record.target["boxes"], record.target["labels"], strict=True)
        return [NamedBox(box, (), TRUTH) for box, actions in persons if action in actions]


def _detected(example: dict) -> NamedBox:
    return NamedBox(example["box"], [f"{example['score']:.2f}"], HIT if example["hit"] else FALSE)


def _webp(frame: np.ndarray, boxes: Sequence[NamedBox]) -> str:
    """A frame uint8 (H, W, 3) with boxes as a data URI."""
    height, width = frame.shape[:2]
    picture = Image.fromarray(frame).resize((max(1, round(width * HEIGHT / height)), HEIGHT), Image.Resampling.BICUBIC)
    draw_boxes(picture, boxes)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY)
    return data_uri(buffer.getvalue(), "image/webp")
