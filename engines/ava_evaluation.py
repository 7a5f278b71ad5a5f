"""Frame mAP at IoU 0.5, as the evaluation of AVA defines it (https://research.google.com/ava), without its row limit.

numpy alone, so that a file of detections is judged without loading PyTorch.
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
    """Judge detected actions: the mean over classes of the average precision at IoU 0.5.

    In each frame (a second of a video) and class, detections by falling score (equal scores: in the order given) take
    the ground-truth box of their highest IoU (equal IoU: the first given). A detection is a hit if that IoU is at
    least 0.5 and no detection before it took the box; it never falls back to its second best. Detections in frames
    without ground truth are false. A class without ground truth has no average precision and is not in the mean; one
    that is never detected has 0.

    Args:
        ground_truth: rows (video, second, x1, y1, x2, y2, action), or an array of `GROUND_TRUTH`.
        detections: rows (video, second, x1, y1, x2, y2, action, score), or an array of `DETECTION`. A box of no width
            or height is never a hit and does not count as a false one either.
        classes: actions that count; rows of others are left out on both sides.
        excluded: (video, second) of frames to leave out on both sides.
        max_rows_per_frame: rows of highest score to keep of each frame, over all classes; 0 for all. The official
            script of AVA keeps 50, the code that published results come from keeps all.
    Returns:
        the mean, and the average precision of each class, None for one without ground truth.
    Raises:
        ValueError: numbers that are not finite, or no ground truth at all.
    """
    found, truth = _match(ground_truth, detections, classes, excluded, max_rows_per_frame)
    if not len(truth.groups):
        raise ValueError("no ground truth to judge by: every row is of a class that does not count, or is excluded")
    ap: dict[int, float | None] = {}
    for column, action in enumerate(classes):
        positives = int((truth.columns == column).sum())
        hits = found.hits[found.columns == column]
        ap[action] = average_precision(*precision_recall(hits, positives)) if positives else None
    return float(np.mean([value for value in ap.values() if value is not None])), ap


def find_hits(ground_truth: Iterable, detections: Iterable, classes: Sequence[int]) -> np.ndarray:
    """Tell which detections are hits by the rules of `frame_map`: a bool for each row, in the order given."""
    detections = _as_array(detections, DETECTION)
    found, _ = _match(ground_truth, detections, classes, (), 0)
    hits = np.zeros(len(detections), bool)
    hits[found.places[found.hits]] = True
    return hits


def precision_recall(hits: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall after each detection: hits (n,), bool, by falling score, of `positives` boxes."""
    found = np.cumsum(hits)
    return found / np.arange(1, len(hits) + 1), found / positives


def average_precision(precision: np.ndarray, recall: np.ndarray) -> float:
    """Return the area under the envelope of precision over recall, both (n,), in the order of rising recall."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0) * envelope))


class _Rows:
    """Rows that count, as arrays of one length: boxes (n, 4), frames, columns of the class, groups (frame and class).

    `places` tells where they stood among all rows, and `hits` which are any.

    Args:
        rows: of either kind.
        order: (all,) the order in which to take them.
        frames: (video, second) -> number; new frames are added.
        columns: action -> column, for the actions that count.
        excluded: frames that do not.
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
    """Match detections to ground truth as `frame_map` says; return the detections by falling score, and the truth."""
    frames: dict[tuple[str, int], int] = {}
    columns = {action: column for column, action in enumerate(classes)}
    left_out = {(video, int(second)) for video, second in excluded}
    rows = _as_array(ground_truth, GROUND_TRUTH)
    truth = _Rows(rows, np.arange(len(rows)), frames, columns, left_out)
    rows = _as_array(detections, DETECTION)
    found = _Rows(rows, np.argsort(-rows["score"], kind="stable"), frames, columns, left_out)
    if max_rows_per_frame:
        found.keep(_places_in_group(found.frames) < max_rows_per_frame)
    found.keep((found.boxes[:, :2] < found.boxes[:, 2:]).all(1))
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
    """Number the members of each group from 0, in the order given: (n,) -> (n,)."""
    order = np.argsort(groups, kind="stable")
    _, first, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    places = np.empty(len(groups), int)
    places[order] = np.arange(len(groups)) - np.repeat(first, sizes)
    return places


def _mark_hits(found: _Rows, truth: _Rows) -> None:
    """Set the hits of detections that stand by falling score."""
    by_group = np.argsort(truth.groups, kind="stable")
    first = np.searchsorted(truth.groups[by_group], found.groups, "left")
    sizes = np.searchsorted(truth.groups[by_group], found.groups, "right") - first
    tried = np.flatnonzero(sizes)
    if not len(tried):
        return
    # pairs of a detection and a ground-truth box of its frame and class; those of a detection follow each other
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
    """Return the intersection over union of boxes (n, 4) in pairs: (n,)."""
    sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    shared = sides.clip(0).prod(1)
    areas = [(both[:, 2:] - both[:, :2]).prod(1) for both in (boxes, others)]
    return shared / (areas[0] + areas[1] - shared)
