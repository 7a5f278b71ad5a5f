"""Read the files of Breakfast, COIN and LVU into a `Source`, with the class numbers of the published checkpoints."""

import math
import re
from collections.abc import Callable
from pathlib import Path

from datasets.labels import Target
from datasets.preparation.list_sources import Entry, Source
from datasets.preparation.media_index import MediaIndex, SourceError
from datasets.preparation.source_files import json_of, lines_of
from datasets.presets import LVU_CLASSES

BREAKFAST_CLASSES = ["cereals", "coffee", "tea", "pancake", "friedegg", "scrambledegg", "sandwich", "juice", "milk"]
BREAKFAST_CLASSES += ["salat"]
BREAKFAST_NAME = re.compile(r"P(\d+)/(cam01|cam02|stereo|webcam01|webcam02)/(P\1_([a-z]+))(?:_ch0)?\.\w+$")
BREAKFAST_TEST = range(47, 55)
"""Persons of the test list of ViS4mer, which VideoMamba follows; 3 to 45 are in its training list."""
BREAKFAST_UNREADABLE = ("P28/cam01/P28_cereals", "P27/stereo/P27_milk_ch0", "P28/cam02/P28_cereals")
COIN_CLASSES = 180
COIN_UNREADABLE = ("AfiVmAjfTNs", "cjwtcDKTQM8")
SAME_LISTS = "val.csv and test.csv are the same videos, as published: the best epoch is chosen on the test videos"

LVU_TARGETS: dict[str, tuple[int, Callable[..., float]]] = {
    "like_ratio": (2, lambda likes, dislikes: 10 * likes / (likes + dislikes) - 9.138220535629456),
    "view_count": (1, lambda views: math.log(views) - 11.76425435683139),
}
"""Of each regression task, how many numbers begin a line, and the target that they give: ViS4mer's, whose mean over
the training list is 0."""


def read_breakfast(index: MediaIndex) -> Source:
    """Find Breakfast's videos by their names, PERSON/CAMERA/PERSON_ACTIVITY.avi; of stereo pairs, the first."""
    splits: dict[str, list[Entry]] = {"train": [], "val": [], "test": []}
    others, unreadable = [], []
    for found in index.found:
        match = BREAKFAST_NAME.search(found.path)
        if match is None or match[4] not in BREAKFAST_CLASSES:
            others.append(found.path)
        elif found.path.rpartition(".")[0].endswith(BREAKFAST_UNREADABLE):
            unreadable.append(found.path)
        else:
            entry = Entry((found.path,), BREAKFAST_CLASSES.index(match[4]), found.path)
            for split in ("val", "test") if int(match[1]) in BREAKFAST_TEST else ("train",):
                splits[split].append(entry)
    if not splits["train"] or not splits["test"]:
        raise SourceError(
            "the folder lacks videos named as Breakfast's, such as P03/cam01/P03_tea.avi, of persons 3 to 45 for "
            "training and 47 to 54 for the test"
        )
    notes = [SAME_LISTS]
    if unreadable:
        notes.append(f"left out as in the published lists, because they do not decode: {', '.join(unreadable)}")
    if others:
        notes.append(f"{len(others)} videos are not in the published lists, such as {others[0]}")
    return Source(splits, BREAKFAST_CLASSES, notes=notes)


def read_coin(file: Path) -> Source:
    """Read COIN.json: subset, recipe_type (the class number) and class (its name) of each video."""
    database = json_of(file, dict).get("database")
    if not isinstance(database, dict):
        raise SourceError(f'{file} has no "database"; it should be COIN.json')
    splits: dict[str, list[Entry]] = {"train": [], "test": []}
    names: dict[int, str] = {}
    for name, about in database.items():
        place = f"{file}, video {name}"
        if name in COIN_UNREADABLE:
            continue
        try:
            split = {"training": "train", "testing": "test"}[about["subset"]]
            label, action = int(about["recipe_type"]), str(about["class"])
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{place}: subset, recipe_type or class is missing or not as in COIN.json") from error
        if not 0 <= label < COIN_CLASSES or names.setdefault(label, action) != action:
            raise SourceError(f"{place}: class {label} is {action}, but should be {names.get(label, 'below 180')}")
        splits[split].append(Entry((name,), label, place))
    label_names = [names.get(label, f"unused_{label}") for label in range(COIN_CLASSES)]
    notes = [SAME_LISTS, f"left out as in the published lists: {', '.join(COIN_UNREADABLE)}"]
    return Source(splits | {"val": splits["test"]}, label_names, notes=notes)


def read_lvu(folder: Path, task: str) -> Source:
    """Read the lists of one of LVU's nine tasks: lvu_1.0/TASK/train.csv, val.csv and test.csv.

    Lines have spaces between columns: the class number and name, or the numbers of a regression, then the ids of the
    video on YouTube and of the film. Lines that lack columns are left out, with a note.
    """
    files = {split: folder / task / f"{split}.csv" for split in ("train", "val", "test")}
    splits: dict[str, list[Entry]] = {}
    names: dict[Target, str] = {}
    notes = []
    for split, file in files.items():
        splits[split] = []
        for number, (place, line) in enumerate(lines_of(file)):
            columns = line.split()
            label = _lvu_label(task, columns)
            if label is None and number == 0:
                continue  # the header
            if label is None:
                notes.append(f'warning: {place} is broken and left out: "{line}"')
                continue
            if task not in LVU_TARGETS:
                name = " ".join(columns[1:-2])
                if names.setdefault(label, name) != name:
                    raise SourceError(f'{place}: class {label} is "{name}", but "{names[label]}" before')
            splits[split].append(Entry((columns[-2],), label, place))
    if task in LVU_TARGETS:
        return Source(splits, [task], notes=notes)
    label_names = [names.get(label, f"unused_{label}") for label in range(LVU_CLASSES[task])]
    return Source(splits, label_names, notes=notes)


def _lvu_label(task: str, columns: list[str]) -> Target | None:
    """Return the class or target of a line; None if it is broken."""
    try:
        if task in LVU_TARGETS:
            count, target = LVU_TARGETS[task]
            return (target(*map(float, columns[:count])),) if len(columns) == count + 2 else None
        label = int(columns[0])
        return label if len(columns) >= 4 and 0 <= label < LVU_CLASSES[task] else None
    except (ValueError, IndexError, ZeroDivisionError):
        return None
