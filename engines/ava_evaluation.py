"""Frame mAP at IoU 0.5, the metric of AVA (https://research.google.com/ava), by default without its limit of rows.

Only numpy is needed, so that files of detections can be evaluated without importing PyTorch.
"""

from collections.abc import Iterable, Sequence
from itertools import compress

import numpy as np

IOU_THRESHOLD = 0.5
BOX = ("x1", "y1", "x2", "y2")
GROUND_TRUTH = np.dtype([("video", object), ("second", int), *((side, float) for side in BOX), ("action", int)])
DETECTION = np.dtype([*GROUND_TRUTH.descr, ("score", float)])


def frame_map(
    ground_truth: Iterable,
    detections: Iterable,
    classes: Sequence[int],
    *,
    excluded: Iterable[tuple[str, int]] = (),
    max_rows_per_frame: int = 0,
) -> tuple[float, dict[int, float | None]]:
    """Compute the mean over classes of the average precision (AP) at IoU 0.5.

    Within a frame (a second of a video) and class, detections are matched in order of decreasing score (ties: in the
    given order), each to the ground-truth box with the highest IoU (ties: the first). A detection is a true positive
    if this IoU is at least 0.5 and the box is not matched yet; it is never matched to its second best box. Detections
    in frames without ground truth are false positives. A class without ground truth has no AP and is not part of the
    mean; a class that is never detected has an AP of 0.

    Args:
        ground_truth: Rows (video, second, x1, y1, x2, y2, action), or an array of dtype `GROUND_TRUTH`.
        detections: Rows (video, second, x1, y1, x2, y2, action, score), or an array of dtype `DETECTION`. Boxes
            without width or height are ignored.
        classes: Actions to evaluate; rows of other actions are ignored.
        excluded: (video, second) of frames whose rows are ignored.
        max_rows_per_frame: Number of rows with the highest scores to keep per frame, over all classes; 0 for all. The
            official script of AVA keeps 50; the code behind the published results keeps all.

    Returns:
        The mean, and the AP of each class, None if it has no ground truth.

    Raises:
        ValueError: A number is not finite, or there is no ground truth at all.
    """
    found, truth = _match(ground_truth, detections, classes, excluded, max_rows_per_frame)
    if not len(truth.groups):
        raise ValueError(
            "there is no ground truth to evaluate with: all rows are excluded or of classes outside the label map"
        )
    ap: dict[int, float | None] = {}
    for column, action in enumerate(classes):
        positives = int((truth.columns == column).sum())
        hits = found.hits[found.columns == column]
        ap[action] = average_precision(*precision_recall(hits, positives)) if positives else None
    return float(np.mean([value for value in ap.values() if value is not None])), ap


def find_hits(ground_truth: Iterable, detections: Iterable, classes: Sequence[int]) -> np.ndarray:
    """Return which detections are true positives according to `frame_map`, (n,) bool, in the given order."""
    detections = _as_array(detections, DETECTION)
    found, _ = _match(ground_truth, detections, classes, (), 0)
    hits = np.zeros(len(detections), bool)
    hits[found.places[found.hits]] = True
    return hits


def precision_recall(hits: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall (n,) after each detection.

    Args:
        hits: Which detections are true positives, (n,) bool, in order of decreasing score.
        positives: Number of ground-truth boxes.
    """
    found = np.cumsum(hits)
    return found / np.arange(1, len(hits) + 1), found / positives


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the area under the envelope of the precision-recall curve, both (n,), in order of increasing recall."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * envelope))


class _Rows:
    """The rows to evaluate, as arrays of equal length.

    Attributes:
        places: Indices among all rows.
        boxes: (n, 4).
        frames: Numbers of the frames.
        columns: Columns of the classes.
        groups: Numbers of the pairs of frame and class.
        hits: Whether a detection is a true positive.

    Args:
        rows: Array of dtype `GROUND_TRUTH` or `DETECTION`.
        order: Indices of the rows, (all,), in the order in which to keep them.
        frames: Numbers of the frames, by (video, second); new frames are added.
        columns: Columns of the classes to evaluate.
        excluded: Frames to leave out.
    """

    def __init__(self, rows: np.ndarray, order: np.ndarray, frames: dict, columns: dict[int, int], excluded: set):
        rows = rows[order]
        keys = list(zip(rows["video"], rows["second"].tolist(), strict=True))
        counts = [
            action in columns and key not in excluded
            for key, action in zip(keys, rows["action"].tolist(), strict=True)
        ]
        rows = rows[counts]
        self.places = order[counts]
        self.boxes = np.stack([rows[side] for side in BOX], -1)
        self.frames = np.array([frames.setdefault(key, len(frames)) for key in compress(keys, counts)], int)
        self.columns = np.array([columns[action] for action in rows["action"].tolist()], int)
        self.groups = self.frames * len(columns) + self.columns
        self.hits = np.zeros(len(rows), bool)

    def keep(self, which: np.ndarray) -> None:
        """Keep the rows where `which` (n,) is true."""
        for name, values in vars(self).items():
            setattr(self, name, values[which])


def _match(
    ground_truth: Iterable,
    detections: Iterable,
    classes: Sequence[int],
    excluded: Iterable[tuple[str, int]],
    max_rows_per_frame: int,
) -> tuple[_Rows, _Rows]:
    """Match detections, sorted by decreasing score, to the ground truth; arguments as in `frame_map`."""
    frames: dict[tuple[str, int], int] = {}
    columns = {action: column for column, action in enumerate(classes)}
    left_out = {(video, int(second)) for video, second in excluded}
    rows = _as_array(ground_truth, GROUND_TRUTH)
    truth = _Rows(rows, np.arange(len(rows)), frames, columns, left_out)
    rows = _as_array(detections, DETECTION)
    found = _Rows(rows, np.argsort(-rows["score"], kind="stable"), frames, columns, left_out)
    if max_rows_per_frame:
        found.keep(_places_in_group(found.frames) < max_rows_per_frame)
    found.keep((found.boxes[:, 2:] - found.boxes[:, :2]).min(1) > 0)
    _mark_hits(found, truth)
    return found, truth


def _as_array(rows: Iterable, kind: np.dtype) -> np.ndarray:
    array = rows if isinstance(rows, np.ndarray) else np.array([tuple(row) for row in rows], kind)
    for field in kind.names[2:]:  # pyright: ignore[reportOptionalSubscript]
        if not np.isfinite(array[field]).all():
            place = int(np.flatnonzero(~np.isfinite(array[field]))[0])
            raise ValueError(f"row {place}, {array[place]}: {field} is not a finite number")
    return array


def _places_in_group(groups: np.ndarray) -> np.ndarray:
    """Number the members of each group from 0 in the given order: (n,) -> (n,)."""
    order = np.argsort(groups, kind="stable")
    _, first, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    places = np.empty(len(groups), int)
    places[order] = np.arange(len(groups)) - np.repeat(first, sizes)
    return places


def _mark_hits(found: _Rows, truth: _Rows) -> None:
    """Set `hits` of detections that are sorted by decreasing score."""
    by_group = np.argsort(truth.groups, kind="stable")
    first = np.searchsorted(truth.groups[by_group], found.groups, "left")
    sizes = np.searchsorted(truth.groups[by_group], found.groups, "right") - first
    tried = np.flatnonzero(sizes)
    if not len(tried):
        return
    # All pairs of a detection and a ground-truth box of its frame and class, consecutive for each detection.
    first, sizes = first[tried], sizes[tried]
    begin = np.cumsum(sizes) - sizes
    pairs = np.arange(sizes.sum())
    boxes = by_group[pairs + np.repeat(first - begin, sizes)]
    overlaps = _iou(found.boxes[np.repeat(tried, sizes)], truth.boxes[boxes])
    best = np.maximum.reduceat(overlaps, begin)
    is_best = overlaps == np.repeat(best, sizes)
    taken = boxes[np.minimum.reduceat(np.where(is_best, pairs, len(pairs)), begin)]

    overlapping = best >= IOU_THRESHOLD
    _, earliest = np.unique(taken[overlapping], return_index=True)
    found.hits[tried[overlapping][earliest]] = True


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU of pairs of boxes, (n, 4) and (n, 4) -> (n,)."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    shared = sides.clip(0).prod(1)
    areas = [(both[:, 2:] - both[:, :2]).prod(1) for both in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared)
