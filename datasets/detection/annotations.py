"""Read AVA's CSV files: the persons of each second, and the records of the datasets.

    annotations       video,second,x1,y1,x2,y2,action_id[,person_id]    one row per action of a person
    detections        video,second,x1,y1,x2,y2,action_id,score          one row per box and class
    detected persons  video,second,x1,y1,x2,y2,[label],score            the label may be empty
    exclusions        video,second                                      seconds that are not used

The files have no header. Box coordinates are fractions of the frame's width and height with (0, 0) in the upper left
corner; a second may be written as 902 or 0902. Faulty lines raise an error that names the file, the lines (the first
ten) and the remedy.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from datasets.annotations import MAX_REPORTED
from datasets.detection.label_map import AnnotationError, LabelMap, read_annotation_text
from datasets.list_lines import INTEGER

ANNOTATION_FORM = "video,second,x1,y1,x2,y2,action_id[,person_id]"
PERSON_FORM = "video,second,x1,y1,x2,y2,[label],score"
DETECTION_FORM = "video,second,x1,y1,x2,y2,action_id,score"
EXCLUSION_FORM = "video,second"
FULL = "full"
"""In place of a file of detected persons: one box of the whole picture for every second."""

RARE_AVA_IDS = frozenset({2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75})
"""Actions annotated in AVA v2.2 that have too few examples for its benchmark of 60 classes."""
BENCHMARK_AVA_IDS = frozenset(range(1, 81)) - RARE_AVA_IDS

SIDES = ("x1", "y1", "x2", "y2")
FARTHEST_OUT = 1.0
"""Fraction of the frame that a detected box may extend beyond it; larger values are taken for pixels."""

Second = tuple[str, int]
"""Video and second."""
Box = tuple[float, float, float, float]
ActionRow = tuple[str, int, float, float, float, float, int]
"""Video, second, x1, y1, x2, y2 and class id; in a detection, followed by the score."""


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """A second of a video, with its ground truth and the boxes to classify.

    Attributes:
        path: Movie or folder of frames.
        line: Line of its first row in the annotations, or, without one, of the first row of its video.
        video: Id of the video.
        second: Second of the video.
        target: Ground truth: "boxes" (n, 4) float64, x1 y1 x2 y2 as fractions of the frame, and "labels", a tuple of
            class ids for each box.
        boxes: (m, 4) float64, boxes to classify, in the same form.
        scores: (m,) float32, scores of the person detector; 1 for boxes of the ground truth.
    """

    path: str
    line: int
    video: str
    second: int
    target: dict[str, Any]
    boxes: np.ndarray
    scores: np.ndarray


@dataclass(slots=True)
class Persons:
    """The persons of a second: line of the first row, boxes as fractions of the frame, class ids and scores."""

    line: int
    boxes: list[Box] = field(default_factory=list)
    labels: list[tuple[int, ...]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def box_array(self) -> np.ndarray:
        """Return the boxes as (n, 4) float64."""
        return np.array(self.boxes, dtype=np.float64).reshape(-1, 4)


class _Row(NamedTuple):
    line: int
    text: str
    video: str
    second: int
    box: Box
    rest: list[str]


class _LineError(ValueError):
    """A fault in a line; the message does not contain the line number."""


class _Faults:
    """Collects the faulty lines of a file, to raise them together after reading."""

    def __init__(self, path: str | os.PathLike, form: str):
        self._path, self._form = path, form
        self._messages: list[str] = []
        self._count = 0

    def add(self, number: int, line: str, reason: str) -> None:
        self._count += 1
        if self._count <= MAX_REPORTED:
            self._messages.append(f'  line {number}: {reason}: "{line[:200]}"')

    def raise_any(self) -> None:
        if not self._count:
            return
        more = [f"  and {self._count - MAX_REPORTED} more"] if self._count > MAX_REPORTED else []
        remedy = f"Each line should be `{self._form}`, with boxes as fractions of the frame and without a header line."
        raise AnnotationError(
            "\n".join([f"{self._path}: {self._count} faulty line(s)", *self._messages, *more, remedy])
        )


def read_annotations(path: str | os.PathLike, label_map: LabelMap) -> dict[Second, Persons]:
    """Read the annotated persons and actions of each second.

    Rows with the same box and person become one person with several actions. With the label map of AVA's benchmark,
    rows of AVA's rare actions are ignored, but their persons are kept.

    Args:
        path: Annotations in AVA's format.
        label_map: Classes of the dataset.

    Returns:
        Persons by video and second, in the order of the file.

    Raises:
        FileNotFoundError: The file does not exist.
        AnnotationError: The file is empty, or has faulty lines or class ids that are not in the label map.
    """
    ignored = RARE_AVA_IDS if frozenset(label_map.ids) == BENCHMARK_AVA_IDS else frozenset()
    faults = _Faults(path, ANNOTATION_FORM)
    found: dict[Second, Persons] = {}
    places: dict[tuple[Second, Box, str], int] = {}
    for row in _read_rows(path, ANNOTATION_FORM, (7, 8), faults):
        try:
            action = _action(row.rest[0])
        except _LineError as error:
            faults.add(row.line, row.text, str(error))
            continue
        if action not in label_map.columns and action not in ignored:
            faults.add(
                row.line, row.text, f"action {action} is not in {label_map.path}; add it there or remove the row"
            )
            continue
        second = (row.video, row.second)
        persons = found.setdefault(second, Persons(row.line))
        place = places.setdefault((second, row.box, ",".join(row.rest[1:])), len(persons.boxes))
        if place == len(persons.boxes):
            persons.boxes.append(row.box)
            persons.labels.append(())
            persons.scores.append(1.0)
        if action in label_map.columns:
            persons.labels[place] += (action,)
    faults.raise_any()
    return found


def read_person_boxes(path: str | os.PathLike, threshold: float) -> dict[Second, Persons]:
    """Read detected persons with a score of at least `threshold`.

    Raises:
        FileNotFoundError: The file does not exist.
        AnnotationError: The file is empty or has faulty lines.
    """
    faults = _Faults(path, PERSON_FORM)
    found: dict[Second, Persons] = {}
    for row in _read_rows(path, PERSON_FORM, (8,), faults):
        try:
            score = _number(row.rest[1], "score")
        except _LineError as error:
            faults.add(row.line, row.text, str(error))
            continue
        if not 0 <= score <= 1:
            hint = "; are these annotations, with a person_id in that column?" if score > 1 else ""
            faults.add(row.line, row.text, f"score {score:g} is not between 0 and 1{hint}")
        elif score >= threshold:
            persons = found.setdefault((row.video, row.second), Persons(row.line))
            persons.boxes.append(row.box)
            persons.scores.append(score)
    faults.raise_any()
    return found


def read_action_rows(path: str | os.PathLike) -> Iterator[ActionRow]:
    """Yield all rows of an annotation file for the evaluation, regardless of their class ids.

    Raises:
        FileNotFoundError: The file does not exist.
        AnnotationError: The file is empty or has faulty lines; raised after the last row.
    """
    faults = _Faults(path, ANNOTATION_FORM)
    for row in _read_rows(path, ANNOTATION_FORM, (7, 8), faults):
        try:
            yield row.video, row.second, *row.box, _action(row.rest[0])
        except _LineError as error:
            faults.add(row.line, row.text, str(error))
    faults.raise_any()


def read_detections(path: str | os.PathLike) -> Iterator[tuple[*ActionRow, float]]:
    """Yield the rows of a file of detections; errors as `read_action_rows`.

    Boxes may be empty or reach a little out of the picture, as other systems write them.
    """
    faults = _Faults(path, DETECTION_FORM)
    for row in _read_rows(path, DETECTION_FORM, (8,), faults, _detected_box):
        try:
            yield row.video, row.second, *row.box, _action(row.rest[0]), _number(row.rest[1], "score")
        except _LineError as error:
            faults.add(row.line, row.text, str(error))
    faults.raise_any()


def read_exclusions(path: str | os.PathLike) -> dict[Second, int]:
    """Read the seconds that are used neither in training nor in evaluation, with their lines.

    Raises:
        FileNotFoundError: The file does not exist.
        AnnotationError: The file has faulty lines. It may be empty.
    """
    faults = _Faults(path, EXCLUSION_FORM)
    found: dict[Second, int] = {}
    for number, line, columns in _split_lines(read_annotation_text(path, f"lines `{EXCLUSION_FORM}`")):
        try:
            if len(columns) != 2:
                raise _LineError(f"there are {len(columns)} columns instead of 2")
            found[columns[0], _second(columns[1])] = number
        except _LineError as error:
            faults.add(number, line, str(error))
    faults.raise_any()
    return found


def _read_rows(
    path: str | os.PathLike,
    form: str,
    counts: tuple[int, ...],
    faults: _Faults,
    read_box: Callable[[list[str]], Box] | None = None,
) -> Iterator[_Row]:
    """Yield the rows of a file of boxes, and record faults in the video, the second or the box."""
    read_box = read_box or _box
    text = read_annotation_text(path, f"lines `{form}`")
    if not text.strip():
        raise AnnotationError(f"{path} is empty; it should contain lines `{form}`")
    known, second, box = [], 0, (0.0, 0.0, 0.0, 0.0)
    for number, line, columns in _split_lines(text):
        try:
            if len(columns) not in counts:
                raise _LineError(f"there are {len(columns)} columns instead of {' or '.join(map(str, counts))}")
            if not columns[0]:
                raise _LineError("the video is empty")
            if columns[:6] != known:  # files of detections have a row for each class of a box
                second, box = _second(columns[1]), read_box(columns[2:6])
                known = columns[:6]
            yield _Row(number, line, columns[0], second, box, columns[6:])
        except _LineError as error:
            faults.add(number, line, str(error))


def _split_lines(text: str) -> Iterator[tuple[int, str, list[str]]]:
    """Yield the number, the text and the columns of each non-empty line."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line, [column.strip().strip('"') for column in line.split(",")]


def _second(text: str) -> int:
    # pandas writes integers as 902.0 if a row of the column is empty
    if not INTEGER.fullmatch(text) or text.startswith("-") or len(text) > 9:
        raise _LineError(f'the second must be a non-negative integer, not "{text}"')
    return int(text.partition(".")[0])


def _action(text: str) -> int:
    if not INTEGER.fullmatch(text) or "." in text:
        raise _LineError(f'the action must be an integer, not "{text}"')
    return int(text)


def _detected_box(columns: list[str], margin: float = FARTHEST_OUT) -> Box:
    x1, y1, x2, y2 = (_number(column, name) for name, column in zip(SIDES, columns, strict=True))
    for name, value in zip(SIDES, (x1, y1, x2, y2), strict=True):
        if not -margin <= value <= 1 + margin:
            hint = "; divide pixels by the width or height" if value > 2 else ""
            raise _LineError(f"{name} = {value:g} is {'far ' if margin else ''}outside the frame, 0 to 1{hint}")
    return x1, y1, x2, y2


def _box(columns: list[str]) -> Box:
    x1, y1, x2, y2 = _detected_box(columns, margin=0.0)
    if x1 >= x2 or y1 >= y2:
        low, high = ("x1", "x2") if x1 >= x2 else ("y1", "y2")
        raise _LineError(f"the box is empty: {low} is not below {high}; fix or remove it")
    return x1, y1, x2, y2


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _LineError(f'{name} must be a number, not "{text}"')
    return value
