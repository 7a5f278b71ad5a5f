"""AVA's CSV files -> persons of each second, and the records of the data sets.

    annotations       video,second,x1,y1,x2,y2,action_id[,person_id]    one row for each action of a person
    detections        video,second,x1,y1,x2,y2,action_id,score          likewise, what a detector says
    detected persons  video,second,x1,y1,x2,y2,[label],score            the label may be empty
    exclusions        video,second                                      seconds that are not used

Files have no header. Boxes are shares of the picture's width and height, (0, 0) is the upper left corner, and a second
may be written 902 or 0902. Every faulty line is an error that names file, line and remedy, up to ten at once.
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

RARE_AVA_IDS = frozenset({2, 16, 18, 19, 21, 23, 25, 31, 32, 33, 35, 39, 40, 42, 44, 50, 53, 55, 71, 75})
"""Actions annotated in AVA v2.2 that its benchmark of 60 classes leaves out, having too few examples."""
BENCHMARK_AVA_IDS = frozenset(range(1, 81)) - RARE_AVA_IDS

SIDES = ("x1", "y1", "x2", "y2")
FARTHEST_OUT = 1.0
"""Shares of the picture that a detected box may reach out of it; more is taken for pixels."""

Second = tuple[str, int]
"""Video and second."""
Box = tuple[float, float, float, float]
ActionRow = tuple[str, int, float, float, float, float, int]
"""Video, second, x1, y1, x2, y2, class id; of a detection, its score after these."""


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """A second of a video with the boxes that a detector is shown.

    Attributes:
        path: movie or folder of frames.
        line: of its first row in the annotations; where it has none, that of the first row of its video.
        video: id.
        second: of the video.
        target: its ground truth: "boxes" (n, 4) float64, x1 y1 x2 y2 as shares of the picture, and "labels", a tuple
            of class ids for each.
        boxes: (m, 4) float64, boxes to be shown to the detector, in the same form.
        scores: (m,) float32, of the person detector; 1 for boxes of the ground truth.
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
    """The persons of a second: line of the first row in the file, boxes as shares, class ids, and scores."""

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
    """What is wrong with one line, without its place."""


class _Faults:
    """Faulty lines of a file, raised together at the end of reading."""

    def __init__(self, path: str | os.PathLike, form: str):
        self._path, self._form = path, form
        self._told: list[str] = []
        self._count = 0

    def add(self, number: int, line: str, reason: str) -> None:
        self._count += 1
        if self._count <= MAX_REPORTED:
            self._told.append(f'  line {number}: {reason}: "{line[:200]}"')

    def raise_any(self) -> None:
        if not self._count:
            return
        more = [f"  and {self._count - MAX_REPORTED} more"] if self._count > MAX_REPORTED else []
        remedy = f"Each line should be `{self._form}`, boxes as shares of the picture; there is no header line."
        raise AnnotationError("\n".join([f"{self._path}: {self._count} faulty line(s)", *self._told, *more, remedy]))


def read_annotations(path: str | os.PathLike, label_map: LabelMap) -> dict[Second, Persons]:
    """Read who does what in which second.

    Rows with the same box and person are one person with several actions. AVA's rare actions are passed over where
    the label map is that of AVA's benchmark; the person stays.

    Args:
        path: annotations in AVA's form.
        label_map: class ids that there are.

    Returns:
        video and second -> persons, in the order of the file.

    Raises:
        FileNotFoundError: the file is not there.
        AnnotationError: it is empty or has faulty lines, or a class id that is not in the label map.
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
    """Read detected persons; those that score below `threshold` are left out.

    Raises:
        FileNotFoundError: the file is not there.
        AnnotationError: it is empty or has faulty lines.
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
    """Yield the rows of annotations as they are to be judged by, whatever their class ids.

    Raises:
        FileNotFoundError: the file is not there.
        AnnotationError: it is empty or has faulty lines; raised after the last row.
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
    """Read seconds that are used neither in training nor in evaluation: video and second -> line.

    Raises:
        FileNotFoundError: the file is not there.
        AnnotationError: it has faulty lines. An empty file is fine.
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
    """Yield the rows of a file of boxes; note those whose video, second or box is faulty."""
    read_box = read_box or _box
    text = read_annotation_text(path, f"lines `{form}`")
    if not text.strip():
        raise AnnotationError(f"{path} is empty; it should hold lines `{form}`")
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
    """Yield each line that holds something: its number, its text and its columns."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line, [column.strip().strip('"') for column in line.split(",")]


def _second(text: str) -> int:
    # pandas writes whole numbers as 902.0 where a row of the column is empty
    if not INTEGER.fullmatch(text) or text.startswith("-") or len(text) > 9:
        raise _LineError(f'the second should be a whole number of 0 or more, not "{text}"')
    return int(text.partition(".")[0])


def _action(text: str) -> int:
    if not INTEGER.fullmatch(text) or "." in text:
        raise _LineError(f'the action should be a whole number, not "{text}"')
    return int(text)


def _detected_box(columns: list[str]) -> Box:
    x1, y1, x2, y2 = (_number(column, name) for name, column in zip(SIDES, columns, strict=True))
    for name, value in zip(SIDES, (x1, y1, x2, y2), strict=True):
        if not -FARTHEST_OUT <= value <= 1 + FARTHEST_OUT:
            raise _LineError(f"{name} = {value:g} is far outside the picture, 0 to 1; divide pixels by its size")
    return x1, y1, x2, y2


def _box(columns: list[str]) -> Box:
    x1, y1, x2, y2 = (_number(column, name) for name, column in zip(SIDES, columns, strict=True))
    for name, value in zip(SIDES, (x1, y1, x2, y2), strict=True):
        if not 0 <= value <= 1:
            hint = "; divide pixels by the width or height" if value > 2 else ""
            raise _LineError(f"{name} = {value:g} is outside the picture, 0 to 1{hint}")
    if x1 >= x2 or y1 >= y2:
        low, high = ("x1", "x2") if x1 >= x2 else ("y1", "y2")
        raise _LineError(f"the box is empty: {low} is not below {high}; mend or remove it")
    return x1, y1, x2, y2


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _LineError(f'{name} should be a number, not "{text}"')
    return value
