"""FiftyOne, FiftyOneTemporalDetectionDataset: labels.json beside data/, with labels by the names of the videos.

`support` has the first and the last frame, counted from 1; `timestamps`, seconds.
"""

from collections.abc import Iterator
from pathlib import Path

from datasets.preparation.media_index import SourceError
from datasets.preparation.segment_exports.stretches import Stretch, segment_of
from datasets.preparation.source_files import json_of


def read(file: Path) -> Iterator[Stretch]:
    """Yield the labelled stretches of a labels.json."""
    content = json_of(file, dict)
    labels, classes = content.get("labels"), content.get("classes")
    if not isinstance(labels, dict):
        raise SourceError(f'{file} has no "labels"; export a FiftyOneTemporalDetectionDataset')
    for video, detections in labels.items():
        for number, detection in enumerate(detections or (), start=1):
            place = f"{file}, {video}, label {number}"
            try:
                label = detection["label"]
                name = str(classes[label]) if classes and isinstance(label, int) else str(label)
                support, times = detection.get("support"), detection.get("timestamps")
                if times:
                    segment = segment_of(times[0], times[1], place)
                else:
                    segment = segment_of(support[0] - 1, support[1], place, "frames")
            except (KeyError, IndexError, TypeError) as error:
                raise SourceError(f"{place} lacks a label of the classes, or support or timestamps") from error
            yield Stretch(video, name, segment, place)
