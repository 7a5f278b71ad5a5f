"""Find the list of a mode, its number of classes, and check that its files exist."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.flag_types import frame_template, non_negative_int
from common.settings import option
from datasets.annotations import Kind, Record, find_absent, read_list, resolve_video_path
from datasets.class_labels import count_outputs
from datasets.labels import TASKS, LabelTask
from datasets.list_lines import evenly_spread
from datasets.presets import PRESETS, get_preset
from datasets.sampling import Mode
from datasets.segments import UNITS, Unit

logger = logging.getLogger(__name__)

LISTS = {"train": "train", "validation": "val", "test": "test"}
CHECKED_FILES = 32
_RELATIVE = "paths are relative to --data_root, or to the current folder without it"


@dataclass(frozen=True)
class ListSettings:
    """Settings of the lists and files to read."""

    data_set: str = option("custom", f"preset: {', '.join(PRESETS)} (default: custom)", metavar="NAME")
    data_path: str = option("", "folder with the lists train, val and test (.csv or .txt)", metavar="DIR")
    train_list: str = option("", "list to use instead of train.csv", metavar="FILE")
    val_list: str = option("", "list to use instead of val.csv", metavar="FILE")
    test_list: str = option("", "list to use instead of test.csv", metavar="FILE")
    data_root: str = option("", "folder that paths in the lists are relative to", names=["prefix"], metavar="DIR")
    split: str = option("", 'column separator, or "tab" (default: detected)', metavar="SEP")
    task: LabelTask = option(
        "classification",
        "what the labels of the lists are: one class a clip; multilabel: any number of classes, as in 3;17;40; "
        "regression: one or more numbers, as in 0.5;2 (see docs/labels.md)",
        choices=TASKS,
    )
    segment_unit: Unit | None = option(
        None, "unit of start and end in lists of segments that have no header", choices=UNITS
    )
    nb_classes: int = option(
        0,
        "number of classes, or of targets (default: the preset's, or determined from the training list)",
        non_negative_int,
        names=["num_classes"],
    )
    label_names: str = option(
        "", "file with one class name per line; saved in args.json, checkpoints and results.json", metavar="FILE"
    )
    filename_tmpl: str = option("img_{:05}.jpg", "template of the frames' file names", frame_template)
    first_frame: int | None = option(
        None,
        "number of the first frame in a folder (default: detected from some folders)",
        non_negative_int,
        names=["start_index"],
        metavar="N",
    )


def find_list(data_path: str | os.PathLike, name: str) -> Path:
    """Find the list `name` ("train", "val", "test") in a folder, as .csv or .txt.

    Raises:
        FileNotFoundError: The folder or the list does not exist.
    """
    folder = Path(data_path)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"--data_path {folder} is not a folder; it should contain train.csv, val.csv, test.csv"
        )
    for suffix in (".csv", ".txt"):
        if (folder / (name + suffix)).is_file():
            return folder / (name + suffix)
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) or "nothing"
    raise FileNotFoundError(
        f"no {name}.csv or {name}.txt in {folder} (found: {found}); add it or name the list with --{name}_list"
    )


def find_list_of(mode: Mode, settings: ListSettings) -> Path:
    """Find the list of a mode; without a test list, the validation list is tested.

    Raises:
        FileNotFoundError: There is none.
    """
    name = LISTS[mode]
    given = {"train": settings.train_list, "val": settings.val_list, "test": settings.test_list}[name]
    if given:
        return Path(given)
    if not settings.data_path:
        raise FileNotFoundError(f"no {name} list: pass --data_path DIR with {name}.csv, or --{name}_list FILE")
    try:
        return find_list(settings.data_path, name)
    except FileNotFoundError:
        if mode != "test" or not Path(settings.data_path).is_dir():
            raise
        logger.warning(
            "no test list in %s, so the validation list is tested; python -m tools.make_lists folder ... "
            "--test_share 0.1 makes one",
            settings.data_path,
        )
        return find_list_of("validation", settings)


def find_training_list(settings: ListSettings) -> Path:
    """Find the training list; --data_path may be the list itself, as in VideoMamba's pretraining scripts.

    Raises:
        FileNotFoundError: There is none.
    """
    if settings.data_path and Path(settings.data_path).is_file():
        settings = replace(settings, train_list=settings.train_list or settings.data_path)
    return find_list_of("train", settings)


def read_records(list_file: Path, settings: ListSettings, *, num_classes: int = 0) -> tuple[Sequence[Record], Kind]:
    """Read a list as the settings say; see `read_list`."""
    return read_list(
        list_file,
        kind=get_preset(settings.data_set).kind,
        data_root=settings.data_root,
        split=settings.split,
        num_classes=num_classes,
        task=settings.task,
        segment_unit=settings.segment_unit,
    )


def given_classes(settings: ListSettings) -> int:
    """Return the number of classes or targets that the preset or --nb_classes gives, 0 if neither does.

    Raises:
        ValueError: They or --task contradict each other, or there is no such preset.
    """
    preset = get_preset(settings.data_set)
    if preset.num_classes and settings.task == "regression":
        raise ValueError(
            f"--task regression contradicts --data_set {preset.name}, which has {preset.num_classes} classes; use "
            "--data_set custom"
        )
    if preset.num_classes and settings.nb_classes not in (0, preset.num_classes):
        raise ValueError(
            f"--nb_classes {settings.nb_classes} contradicts --data_set {preset.name}, which has "
            f"{preset.num_classes}; omit it, or use --data_set custom"
        )
    return preset.num_classes or settings.nb_classes


def number_of_classes(settings: ListSettings) -> int:
    """Return the number of outputs, classes or targets: the preset's, --nb_classes, or the training list's.

    Raises:
        FileNotFoundError: The training list is needed and does not exist.
        ValueError: Preset and --nb_classes contradict each other, or the training list is invalid.
    """
    given = given_classes(settings)
    if given:
        return given
    try:
        list_file = find_list_of("train", settings)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} (or set the number of classes with --nb_classes)") from error
    records, _ = read_records(list_file, settings)
    return count_outputs(records, list_file, settings.task)


def count_videos(settings: ListSettings) -> int:
    """Count the records of the training list.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is faulty.
    """
    return len(read_records(find_list_of("train", settings), settings)[0])


def check_some_files(records: Sequence[Record], list_file: Path) -> None:
    """Check that some files of a list exist, so that a wrong root folder is found before a run starts.

    Raises:
        FileNotFoundError: None of the checked files exists and has content.
    """
    some = evenly_spread(records, CHECKED_FILES)
    absent = find_absent(some)
    if not absent:
        return
    first, reason = absent[0]
    example = f"line {first.line}: {first.path} {reason}"
    if len(absent) == len(some):
        remedy = f"; {_RELATIVE}" if reason == "does not exist" else ""
        raise FileNotFoundError(f"{list_file}: none of the {len(some)} files checked can be read; {example}{remedy}")
    logger.warning("%s: %d of %d files checked are missing or empty; %s", list_file, len(absent), len(some), example)


def check_any_file(rows: Sequence[Any], list_file: str | os.PathLike) -> None:
    """Check that one of a list's files or folders exists; with a wrong root folder, none does.

    Args:
        rows: Each has a `path` and a `line`.
        list_file: For the message.

    Raises:
        FileNotFoundError: None exists.
    """
    if not any(os.path.exists(resolve_video_path(row.path)) for row in rows):
        raise FileNotFoundError(
            f"{list_file}: none of its files exists; line {rows[0].line}: {rows[0].path} does not exist; {_RELATIVE}"
        )
