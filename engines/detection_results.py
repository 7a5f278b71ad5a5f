"""The results of an action detection test: its entries in results.json, and detections.csv.

Records are key frames (`datasets.detection.annotations.Keyframe`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from engines.ava_evaluation import BOX, DETECTION, GROUND_TRUTH, IOU_THRESHOLD, find_hits

SHOWN_CLASSES, EXAMPLES_OF_KIND = 5, 2
"""Numbers of best and of worst classes, and of true and of false positives of each, that the report shows."""
ROWS_AT_ONCE = 100_000  # converted to Python numbers, which need more memory than numpy's


def truth_rows(records: Sequence) -> np.ndarray:
    """Return the ground truth of key frames, one row per box and action, as an array of dtype `GROUND_TRUTH`."""
    rows = [
        (record.video, record.second, *box, action)
        for record in records
        for box, actions in zip(record.target["boxes"], record.target["labels"], strict=True)
        for action in actions
    ]
    return np.array(rows, GROUND_TRUTH)


def detection_rows(records: Sequence, scores: Sequence[np.ndarray] | np.ndarray, actions: Sequence[int]) -> np.ndarray:
    """Return detections, one row per box and class, as an array of dtype `DETECTION`.

    Args:
        records: Key frames; their `boxes` (n, 4) were given to the detector.
        scores: Scores (n, classes) of the boxes of each key frame.
        actions: Class ids, in the order of the columns.
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
    """Return the entries of results.json per class.

    Args:
        truth: Rows of the ground truth.
        detections: Rows of the detections.
        ap: Average precision of each class id, as returned by `frame_map`.
        names: Class names, by id.
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

    Numbers have enough digits for the file to have the same mAP as the detections.
    """
    for start in range(0, len(detections), ROWS_AT_ONCE):
        for video, second, *box, action, score in detections[start : start + ROWS_AT_ONCE].tolist():
            sides = ",".join(f"{side:.9g}" for side in box)
            yield f"{video},{second:04d},{sides},{action},{score:.9g}"


def _examples(
    truth: np.ndarray, detections: np.ndarray, ap: Mapping[int, float | None], names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Return the true and false positives with the highest scores, for the best and the worst classes."""
    evaluated = {action: value for action, value in ap.items() if value is not None}
    ranking = sorted(evaluated, key=lambda action: -evaluated[action])
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
