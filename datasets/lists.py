"""The list of a mode: where it is, how many classes there are, and whether its files are there."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.flag_types import frame_template, non_negative_int
from common.settings import option
from datasets.annotations import Record, find_absent, find_list, read_list
from datasets.class_labels import count_classes
from datasets.list_lines import evenly_spread
from datasets.presets import PRESETS, get_preset
from datasets.sampling import Mode

logger = logging.getLogger(__name__)

LISTS = {"train": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class ListSettings:
    """Which lists and files are read."""

    data_set: str = option("custom", f"preset: {', '.join(PRESETS)} (default: custom)", metavar="NAME")
    data_path: str = option("", "folder with train, val and test .csv or .txt", metavar="DIR")
    train_list: str = option("", "list, instead of train.csv", metavar="FILE")
    val_list: str = option("", "list, instead of val.csv", metavar="FILE")
    test_list: str = option("", "list, instead of test.csv", metavar="FILE")
    data_root: str = option("", "folder that the paths in the lists start from", names=["prefix"], metavar="DIR")
    split: str = option("", 'separator of the columns, or "tab" (default: recognised)', metavar="SEP")
    nb_classes: int = option(
        0, "number of classes (default: the preset's, or read off the lists)", non_negative_int, names=["num_classes"]
    )
    label_names: str = option(
        "", "names of the classes, one a line; kept in args.json, checkpoints and results.json", metavar="FILE"
    )
    filename_tmpl: str = option("img_{:05}.jpg", "names of frames in a folder", frame_template)
    first_frame: int | None = option(
        None,
        "number of a folder's first frame (default: found by looking at some folders)",
        non_negative_int,
        names=["start_index"],
        metavar="N",
    )


def find_list_of(mode: Mode, settings: ListSettings) -> Path:
    """Find the list of a mode; a test list that is nowhere is the validation list.

    Raises:
        FileNotFoundError: there is none.
    """
    name = LISTS[mode]
    given = {"train": settings.train_list, "val": settings.val_list, "test": settings.test_list}[name]
    if given:
        return Path(given)
    if not settings.data_path:
        raise FileNotFoundError(f"no {name} list: give --data_path DIR with {name}.csv, or --{name}_list FILE")
    try:
        return find_list(settings.data_path, name)
    except FileNotFoundError:
        if mode != "test" or not Path(settings.data_path).is_dir():
            raise
        logger.warning("there is no test list in %s; the validation list is tested", settings.data_path)
        return find_list_of("validation", settings)


def number_of_classes(settings: ListSettings) -> int:
    """Give the number of classes: the preset's, --nb_classes, or what the training list has, so that all modes agree.

    Raises:
        FileNotFoundError: only the training list could tell, and there is none.
        ValueError: preset and --nb_classes contradict each other, or the training list is faulty.
    """
    preset = get_preset(settings.data_set)
    if preset.num_classes and settings.nb_classes not in (0, preset.num_classes):
        raise ValueError(
            f"--nb_classes {settings.nb_classes} contradicts --data_set {preset.name}, which has "
            f"{preset.num_classes}; leave it out, or take --data_set custom"
        )
    if preset.num_classes or settings.nb_classes:
        return preset.num_classes or settings.nb_classes
    try:
        list_file = find_list_of("train", settings)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} (or say the number of classes with --nb_classes)") from error
    records, _ = read_list(list_file, kind=preset.kind, data_root=settings.data_root, split=settings.split)
    return count_classes(records, list_file)


def count_videos(settings: ListSettings) -> int:
    """Count the records of the training list.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is faulty.
    """
    kind = get_preset(settings.data_set).kind
    list_file = find_list_of("train", settings)
    return len(read_list(list_file, kind=kind, data_root=settings.data_root, split=settings.split)[0])


def check_some_files(records: Sequence[Record], list_file: Path, count: int = 32) -> None:
    """Look for a few files over the list: when none is there, the root is wrong and a run would be wasted.

    Raises:
        FileNotFoundError: none of them is there.
    """
    some = evenly_spread(records, count)
    absent = find_absent(some)
    if not absent:
        return
    first, reason = absent[0]
    told = f"line {first.line}: {first.path} {reason}"
    if len(absent) == len(some):
        raise FileNotFoundError(
            f"{list_file}: none of {len(some)} files looked for is there, first {told}; "
            "paths are relative to --data_root, or else to the current folder"
        )
    logger.warning("%s: %d of %d files looked for are missing, first %s", list_file, len(absent), len(some), told)
