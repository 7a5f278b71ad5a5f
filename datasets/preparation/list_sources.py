"""Read the files of published data sets, and class folders, into a `Source`.

A source identifies clips by path or id, as its files do; `MediaIndex` finds their videos or frame folders.
"""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from datasets.annotations import is_image_path
from datasets.folder_walk import is_system_name, walk_folders
from datasets.labels import Target
from datasets.preparation.media_index import Found, MediaIndex, SourceError, suffix_of, tally
from datasets.preparation.source_files import json_of, lines_of, text_of
from datasets.segments import Segment

SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
UCF101_GROUP = r"_g(\d+)_c\d+"  # clips of a group come from the same recording
JHMDB_ACTIONS = ("brush_hair", "catch", "clap", "climb_stairs", "golf", "jump", "kick_ball", "pick", "pour", "pullup")
JHMDB_ACTIONS += ("push", "run", "shoot_ball", "shoot_bow", "shoot_gun", "sit", "stand", "swing_baseball", "throw")
JHMDB_ACTIONS += ("walk", "wave")
HMDB51_GROUP = r"([^/]+)/(.+?)_\1_"  # a clip's name starts with that of its film


@dataclass(frozen=True, slots=True)
class Entry:
    """A clip of a source.

    Attributes:
        names: Its possible names, most specific first.
        label: Its label.
        place: Where the files of the source name it.
        segment: The stretch of a video; None for all of it.
    """

    names: tuple[str, ...]
    label: Target
    place: str
    segment: Segment | None = None


@dataclass(frozen=True)
class Source:
    """The contents of a data set.

    Attributes:
        splits: The clips of each split ("train", "val", "test").
        label_names: The names of the classes.
        group_by: Pattern whose groups are equal for clips of the same recording.
        notes: Remarks and warnings about the folder.
    """

    splits: dict[str, list[Entry]]
    label_names: list[str]
    group_by: str = ""
    notes: list[str] = field(default_factory=list)


def read_folder(root: Path, index: MediaIndex) -> Source:
    """Read class folders, or train/, val/ and test/ with class folders; clips may be nested in subfolders."""
    paths = [found.path for found in index.found]
    lone = next((path for path in paths if len(PurePosixPath(path).parts) == 1), None)
    if lone and index.kind == "frames":
        raise SourceError(
            f"{root / lone} contains images, but a class should contain one folder per clip; for classes of "
            "single images use `imagenet`"
        )
    return _by_class_folder(root, paths)


def read_image_folder(root: Path) -> tuple[Source, list[Found], list[str]]:
    """Read class folders of images, or train/ and val/ with class folders, as in ImageNet.

    Returns:
        The source, the images, and a line for each skipped file or folder.
    """
    if not root.is_dir():
        raise SourceError(f"{root} is not a folder; it should contain train/CLASS/*.JPEG")
    passed_over: list[str] = []
    others: Counter[str] = Counter()
    found = []
    for folder, files in walk_folders(root, passed_over):
        relative = Path(folder).relative_to(root)
        found += [Found((relative / name).as_posix(), 1) for name in files if is_image_path(name)]
        others.update(suffix_of(name) for name in files if not is_image_path(name))
    if others:
        passed_over.append(f"{others.total()} files that are not images: {tally(others)}")
    found.sort(key=lambda image: image.path)
    return _by_class_folder(root, [image.path for image in found]), found, passed_over


def _by_class_folder(root: Path, paths: Sequence[str]) -> Source:
    """Sort paths by split (if the root has split folders) and class, according to their folders."""
    split_of = _split_folders(root)
    rows, outside = [], []
    for path in paths:
        folders = PurePosixPath(path).parts[:-1]
        if split_of and (not folders or folders[0] not in split_of):
            outside.append(path)
            continue
        split, folders = (split_of[folders[0]], folders[1:]) if split_of else ("train", folders)
        if not folders:
            raise SourceError(f"{root / path} is not in a class folder; move it into one")
        rows.append((split, folders, path))
    if split_of:
        _require_training_clips(root, split_of, rows)
    if not rows:
        raise SourceError(f"{root} contains no class folders with clips")
    names = sorted({folders[0] for _, folders, _ in rows})
    label_of = {name: label for label, name in enumerate(names)}
    notes = _suspicions(root, split_of, rows, names)
    if outside:
        notes.append(f"{len(outside)} clips outside {', '.join(split_of)}, such as {outside[0]}")
    splits: dict[str, list[Entry]] = {split: [] for split in dict.fromkeys(split_of.values())} or {"train": []}
    for split, folders, path in rows:
        splits[split].append(Entry((path,), label_of[folders[0]], str(root / path)))
    return Source({split: entries for split, entries in splits.items() if entries}, names, notes=notes)


def _split_folders(root: Path) -> dict[str, str]:
    """Map the names of the root's split folders to splits; empty if there is no training split."""
    folders = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
    there = {
        entry.name: folders[entry.name.lower()]
        for entry in sorted(root.iterdir())
        if entry.name.lower() in folders and entry.is_dir()
    }
    return there if "train" in there.values() else {}


def _require_training_clips(root: Path, split_of: dict[str, str], rows: Sequence[tuple]) -> None:
    """Raise a SourceError if none of the rows belongs to the training split."""
    if any(split == "train" for split, _, _ in rows):
        return
    folders = [root / name for name, split in split_of.items() if split == "train"]
    named = " and ".join(map(str, folders))
    raise SourceError(
        f"there is no usable clip for training in {named}; found there: {_held(*folders)}. Put the training clips "
        "there as CLASS/CLIP, in the same form as those of the other folders, or rename the folder if it is not a "
        "training split"
    )


def _held(*folders: Path) -> str:
    """Count the files in folders by suffix."""
    counts = Counter(suffix_of(name) for folder in folders for _, files in walk_folders(folder, []) for name in files)
    return tally(counts) or "no files"


def _suspicions(root: Path, split_of: dict[str, str], rows: Sequence[tuple], names: Sequence[str]) -> list[str]:
    """Return warnings about a folder structure that suggests another root, and about classes without clips.

    Raises:
        SourceError: There is only one class, as happens if the root is one level too high.
    """
    inside: dict[str, set[str]] = defaultdict(set)
    for _, folders, _ in rows:
        inside[folders[0]].update(folders[1:2])
    if len(names) == 1:
        deeper = ", ".join(sorted(inside[names[0]])[:3])
        hint = f"; if the classes are the folders in it ({deeper}), pass {root / names[0]}" if deeper else ""
        raise SourceError(f"{root} has only one folder with clips, {names[0]}, so there is only one class{hint}")
    notes = []
    shared = set.intersection(*inside.values())
    if len(shared) > 1:
        listed = ", ".join(sorted(shared)[:3])
        notes.append(f"warning: all classes contain the same folders ({listed}); are those the classes?")
    for parent in [root / name for name in split_of] or [root]:
        for folder in sorted(entry for entry in parent.iterdir() if entry.is_dir()):
            if folder.name not in names and not is_system_name(folder.name):
                notes.append(f"warning: {folder} has no clips and is not a class; it has {_held(folder)}")
    return notes


def read_kinetics(files: dict[str, Path]) -> Source:
    """Read Kinetics' CSVs: columns label, youtube_id, time_start, time_end; classes are sorted alphabetically.

    A clip may be named ID_START_END, with six digits each, or ID, in any folder and with any suffix.
    """
    rows = {split: list(_csv_rows(path, ("label", "youtube_id"))) for split, path in files.items()}
    names = sorted({row["label"] for _, row in rows["train"]})
    label_of = {name: label for label, name in enumerate(names)}
    splits = {}
    for split, split_rows in rows.items():
        splits[split] = []
        for place, row in split_rows:
            if row["label"] not in label_of:
                raise SourceError(f'{place}: class "{row["label"]}" is not in {files["train"]}')
            exact = ()
            if row.get("time_start") and row.get("time_end"):
                start, end = (_seconds(row[key], place) for key in ("time_start", "time_end"))
                exact = (f"{row['youtube_id']}_{start:06}_{end:06}",)
            splits[split].append(Entry((*exact, row["youtube_id"]), label_of[row["label"]], place))
    return Source(splits, names)


def _seconds(text: str, place: str) -> int:
    try:
        return round(float(text))
    except (ValueError, OverflowError) as error:
        raise SourceError(f'{place}: a time should be a number of seconds, not "{text}"') from error


def _csv_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV with a header, each with its place."""
    reader = csv.DictReader(io.StringIO(text_of(path), newline=""))
    missing = [name for name in needed if name not in (reader.fieldnames or ())]
    if missing:
        raise SourceError(
            f"{path}, line 1: column {', '.join(missing)} is missing; Kinetics' files have label, youtube_id, "
            "time_start, time_end"
        )
    for row in reader:
        place = f"{path}, line {reader.line_num}"
        empty = [name for name in needed if not row[name]]
        if empty:
            raise SourceError(f"{place}: {empty[0]} is empty; the published test lists have no labels, omit --test")
        yield place, row


def read_something_something(files: dict[str, Path], labels: Path) -> Source:
    """Read Something-Something V2's JSON: id and template of each clip; `labels` maps templates to numbers."""
    numbers = {name: str(number) for name, number in json_of(labels, dict).items()}
    if set(numbers.values()) != {str(number) for number in range(len(numbers))}:
        raise SourceError(f"{labels}: the labels are not the numbers from 0 to {len(numbers) - 1}")
    numbers = {name: int(number) for name, number in numbers.items()}
    names = sorted(numbers, key=lambda name: numbers[name])
    splits = {}
    for split, path in files.items():
        splits[split] = []
        for i, clip in enumerate(json_of(path, list), start=1):
            place = f"{path}, clip {i}"
            if not isinstance(clip, dict) or "id" not in clip or "template" not in clip:
                raise SourceError(
                    f"{place}: id or template is missing; the published test split has no labels, omit --test"
                )
            template = re.sub(r"[\[\]]", "", str(clip["template"]))
            if template not in numbers:
                raise SourceError(f'{place}: "{template}" is not in {labels}')
            splits[split].append(Entry((str(clip["id"]),), numbers[template], place))
    return Source(splits, names)


def read_ucf101(folder: Path, fold: int) -> Source:
    """Read UCF101's classInd.txt, trainlist0F.txt and testlist0F.txt."""
    number_of = {}
    for place, line in lines_of(folder / "classInd.txt"):
        words = line.split()
        if len(words) != 2 or not words[0].isdigit():
            raise SourceError(f'{place}: should be `number class`, not "{line}"')
        number_of[words[1]] = int(words[0]) - 1
    if set(number_of.values()) != set(range(len(number_of))):
        raise SourceError(f"{folder / 'classInd.txt'}: the classes are not numbered from 1 to {len(number_of)}")
    splits = {}
    for split in ("train", "test"):
        splits[split] = []
        for place, line in lines_of(folder / f"{split}list{fold:02}.txt"):
            path, *number = line.split()
            name = path.split("/")[0]
            if name not in number_of:
                raise SourceError(f'{place}: class "{name}" is not in {folder / "classInd.txt"}')
            if number and number != [str(number_of[name] + 1)]:
                raise SourceError(f"{place}: class {number[0]} should be {number_of[name] + 1}, as in classInd.txt")
            splits[split].append(Entry((path, path.rpartition(".")[0]), number_of[name], place))
    return Source(splits, sorted(number_of, key=lambda name: number_of[name]), UCF101_GROUP)


def read_hmdb51(folder: Path, fold: int) -> Source:
    """Read HMDB51's CLASS_test_splitF.txt: each clip is followed by 1 (training), 2 (test) or 0 (not used)."""
    ending = f"_test_split{fold}.txt"
    files = sorted(file for file in folder.glob(f"*{ending}") if not is_system_name(file.name))
    if not files:
        raise SourceError(f"{folder} has no files CLASS{ending}, as HMDB51's splits are named")
    names = [file.name.removesuffix(ending) for file in files]
    splits: dict[str, list[Entry]] = {"train": [], "test": []}
    for label, (name, file) in enumerate(zip(names, files, strict=True)):
        for place, line in lines_of(file):
            clip, _, role = line.rpartition(" ")
            if role not in ("0", "1", "2") or not clip:
                raise SourceError(f'{place}: should be a clip and 0, 1 or 2, not "{line}"')
            if role != "0":
                path = f"{name}/{clip.strip()}"
                splits["train" if role == "1" else "test"].append(Entry((path, path.rpartition(".")[0]), label, place))
    return Source(splits, names, HMDB51_GROUP)


def read_jhmdb(folder: Path, fold: int) -> Source:
    """J-HMDB's split files, which are named and written like HMDB51's, and have 21 of its actions."""
    source = read_hmdb51(folder, fold)
    if source.label_names != list(JHMDB_ACTIONS):
        lacking = sorted(set(JHMDB_ACTIONS) - set(source.label_names))
        others = sorted(set(source.label_names) - set(JHMDB_ACTIONS))
        problems = [f"lacks {', '.join(lacking)}"] if lacking else []
        problems += [f"has {', '.join(others[:5])}, which are none of its actions"] if others else []
        raise SourceError(f"{folder} {' and '.join(problems)}; give the folder `splits` that J-HMDB comes with")
    return source
