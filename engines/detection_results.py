"""What a test of action detection writes: its part of results.json, and detections.csv.

Records are key frames (`datasets.detection.annotations.Keyframe`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from engines.ava_evaluation import BOX, DETECTION, GROUND_TRUTH, IOU_THRESHOLD, find_hits

SHOWN_CLASSES, EXAMPLES_OF_KIND = 5, 2
"""Classes at either end of the ranking, and hits and false detections of each, that the report shows with pictures."""
ROWS_AT_ONCE = 100_000  # as Python's numbers, which take more memory than numpy's


def truth_rows(records: Sequence) -> np.ndarray:
    """Return the ground truth of key frames as rows, one of each box and action: an array of `GROUND_TRUTH`."""
    rows = [
        (record.video, record.second, *box, action)
        for record in records
        for box, actions in zip(record.target["boxes"], record.target["labels"], strict=True)
        for action in actions
    ]
    return np.array(rows, GROUND_TRUTH)


def detection_rows(records: Sequence, scores: Sequence[np.ndarray] | np.ndarray, actions: Sequence[int]) -> np.ndarray:
    """Return detections as rows, one of each box and class: an array of `DETECTION`.

    Args:
        records: the key frames, whose `boxes` (n, 4) were shown to the detector.
        scores: of each key frame (n, classes).
        actions: ids of the classes, in the order of the columns.
    """
    counts = np.array([len(record.boxes) for record in records]) * len(actions)
    rows = np.zeros(counts.sum(), DETECTION)
    rows["video"] = np.repeat(np.array([record.video for record in records], object), counts)
    rows["second"] = np.repeat([record.second for record in records], counts)
    for side, values in zip(BOX, np.concatenate([record.boxes for record in records]).T, strict=True):
        rows[side] = np.repeat(values, len(actions))
    rows["action"] = np.tile(actions, len(rows) // len(actions))
    rows["score"] = np.concatenate(scores).ravel()
    return rows


def describe_detections(
    truth: np.ndarray,
    detections: np.ndarray,
    ap: Mapping[int, float | None],
    names: Mapping[int, str],
) -> dict[str, Any]:
    """Return what results.json holds of a test by class.

    Args:
        truth: rows of the ground truth.
        detections: rows of what was found.
        ap: average precision of each class, as `frame_map` gives it.
        names: of the classes.
    """
    counts = {action: int((truth["action"] == action).sum()) for action in names}
    return {
        "iou_threshold": IOU_THRESHOLD,
        "ap": {names[action]: value for action, value in ap.items()},
        "ground_truth_boxes": {names[action]: count for action, count in counts.items()},
        "examples": _examples(truth, detections, ap, names),
    }


def csv_lines(detections: np.ndarray) -> Iterator[str]:
    """Yield detections in AVA's columns: video, second, x1, y1, x2, y2, action, score.

    The numbers are written so that a file that is read again is judged as the detections were.
    """
    for start in range(0, len(detections), ROWS_AT_ONCE):
        for video, second, *box, action, score in detections[start : start + ROWS_AT_ONCE].tolist():
            sides = ",".join(f"{side:.9g}" for side in box)
            yield f"{video},{second:04d},{sides},{action},{score:.9g}"


def _examples(
    truth: np.ndarray, detections: np.ndarray, ap: Mapping[int, float | None], names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """The surest hits and false detections of the best and the worst classes: name, video, second, box, score, hit."""
    ranking = sorted((action for action in ap if ap[action] is not None), key=lambda action: -ap[action])
    examples = []
    for action in dict.fromkeys(ranking[:SHOWN_CLASSES] + ranking[-SHOWN_CLASSES:]):
        found = detections[detections["action"] == action]
        found = found[np.argsort(-found["score"], kind="stable")]
        hits = find_hits(truth[truth["action"] == action], found, [action])
        for hit in (True, False):
            examples += [
                {
                    "name": names[action],
                    "video": row["video"],
                    "second": int(row["second"]),
                    "box": [round(float(row[side]), 4) for side in BOX],
                    "score": round(float(row["score"]), 4),
                    "hit": hit,
                }
                for row in found[hits == hit][:EXAMPLES_OF_KIND]
            ]
    return examples
