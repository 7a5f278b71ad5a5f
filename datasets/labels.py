"""What the label of a clip is in a list, by task: a class, several classes, or numbers.

    classification   3          one class
    multilabel       3;17;40    any number of classes, none included
    regression       0.5;-2e3   one or more numbers, the targets

Several values of a label are joined by semicolons, so that a label is one column of a list however columns are
separated.
"""

import math
import re
from typing import Literal, cast, get_args

from datasets.list_lines import (
    INTEGER,
    INTEGERS,
    JOINT,
    MAX_DIGITS,
    NUMBER,
    NUMBERS,
    LineError,
)

LabelTask = Literal["classification", "multilabel", "regression"]
Target = int | tuple[int, ...] | tuple[float, ...]

TASKS: tuple[LabelTask, ...] = get_args(LabelTask)

_FORMS = {"classification": INTEGER, "multilabel": INTEGERS, "regression": NUMBERS}


def label_form(task: LabelTask) -> re.Pattern:
    """Return the pattern that the labels of a task match entirely; an empty label does not match."""
    return _FORMS[task]


def may_be_empty(task: LabelTask) -> bool:
    """Return whether a clip may have no label."""
    return task == "multilabel"


def parse_label(text: str, task: LabelTask = "classification") -> Target:
    """Parse the label column of a line.

    Args:
        text: Content of the column, without surrounding spaces.
        task: Task of the list.

    Returns:
        A class (int), the classes in increasing order (a tuple of int, may be empty), or the targets (of float).

    Raises:
        LineError: The label does not have the form of the task; the message says which task has labels of this form.
    """
    if task == "classification":
        return _parse_class(text, task)
    values = text.split(JOINT) if text else []
    if task == "multilabel":
        classes = sorted(_parse_class(value.strip(), task) for value in values)
        twice = [label for label, following in zip(classes, classes[1:], strict=False) if label == following]
        if twice:
            raise LineError(f"label {twice[0]} is there twice")
        return tuple(classes)
    if not values:
        raise LineError("there is no label")
    return tuple(parse_number(value.strip()) for value in values)


def misfit(target: Target, count: int) -> str:
    """Say why a target does not fit `count` classes or targets; empty if it does, or if `count` is 0 for unknown."""
    if not count:
        return ""
    if task_of(target) == "regression":
        if len(cast(tuple, target)) == count:
            return ""
        return f"the label has {len(cast(tuple, target))} numbers, but there are {count} targets"
    highest = max(classes_of(target), default=-1)
    if highest < count:
        return ""
    labels = f"{count} classes have labels 0 to {count - 1}"
    return f"label {highest} is out of range: {labels} (--nb_classes sets their number in training)"


def classes_of(target: Target) -> tuple[int, ...]:
    """Return the classes of a target, of which a regression's has none."""
    if not isinstance(target, tuple):
        return (target,)
    return cast(tuple[int, ...], target) if task_of(target) == "multilabel" else ()


def format_label(target: Target) -> str:
    """Write a target as the label column from which `parse_label` reads it."""
    if not isinstance(target, tuple):
        return str(target)
    return JOINT.join(repr(value) if isinstance(value, float) else str(value) for value in target)


def task_of(target: Target) -> LabelTask:
    """Return the task whose targets have this form."""
    if not isinstance(target, tuple):
        return "classification"
    return "regression" if any(isinstance(value, float) for value in target) else "multilabel"


def parse_integer(text: str, what: str, hint: str = "") -> int:
    """Parse a whole number of at most `MAX_DIGITS` digits; raise a LineError that calls it `what`."""
    if not INTEGER.fullmatch(text):
        raise LineError(f'{what} should be a whole number, not "{text}"{hint}')
    digits = text.partition(".")[0]
    if len(digits) > MAX_DIGITS:
        raise LineError(f"{what} has {len(digits)} digits")
    return int(digits)


def _parse_class(text: str, task: LabelTask) -> int:
    label = parse_integer(text, "label", _hint(text, task))
    if label < 0:
        raise LineError(f"label {label} is negative; labels count from 0{_hint(text, task)}")
    return label


def parse_number(text: str) -> float:
    """Parse one number of a regression's label; raise a LineError if it is none."""
    if not NUMBER.fullmatch(text):
        raise LineError(
            f'label should be a number, or several joined by "{JOINT}", not "{text}"; decimals have a point'
        )
    value = float(text)
    if not math.isfinite(value):
        raise LineError(f"label {text} is too large")
    return value


def _hint(text: str, task: LabelTask) -> str:
    """Say which other task has labels of this form; empty if none has, or if it is that of the list."""
    if task == "classification" and JOINT in text and _FORMS["multilabel"].fullmatch(text):
        return "; several labels of a clip: --task multilabel"
    return "; numbers as targets: --task regression" if _FORMS["regression"].fullmatch(text) else ""
