"""How published data sets, and folders of classes, say which clips there are: each form read into a `Source`.

A source names clips as its files do, by path or by id; `MediaIndex` finds the videos or frame folders of these names.
"""

import csv
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from datasets.annotations import VIDEO_SUFFIXES, is_image_path

SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
UCF101_GROUP = r"_g(\d+)_c\d+"  # clips of one group are cut from one recording
HMDB51_GROUP = r"([^/]+)/(.+?)_\1_"  # a clip's name starts with that of the film it is cut from


class SourceError(ValueError):
    """A data set's own files cannot be used; the message names file, line and remedy."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A clip that a source speaks of: names it may have, most exact first, its label, and where it stands."""

    names: tuple[str, ...]
    label: int
    place: str


@dataclass(frozen=True)
class Source:
    """The clips of each split ("train", "val", "test"), the classes' names, and what tells clips of one recording."""

    splits: dict[str, list[Entry]]
    label_names: list[str]
    group_by: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A video, image or frame folder, its path relative to the root; `total_frames` is 0 for a video."""

    path: str
    total_frames: int = 0


class MediaIndex:
    """All videos below a folder, or where it has none all folders of frames, by name.

    `filename_tmpl` is how frames seem to be named, "" where there are none.
    """

    def __init__(self, root: Path):
        """Walk through `root`; raises `SourceError` where it has neither videos nor frames."""
        if not root.is_dir():
            raise SourceError(f"{root} is not a folder; it should hold the videos")
        videos, folders, self.filename_tmpl = [], [], ""
        for folder, _, files in os.walk(root, followlinks=True):
            relative = Path(folder).relative_to(root)
            videos += [Found((relative / name).as_posix()) for name in files if name.lower().endswith(VIDEO_SUFFIXES)]
            frames = sorted(filter(is_image_path, files))
            if frames:
                folders.append(Found(relative.as_posix(), len(frames)))
                self.filename_tmpl = self.filename_tmpl or guess_template(frames[0])
        if not videos and not folders:
            raise SourceError(f"{root} has neither videos ({', '.join(VIDEO_SUFFIXES)}) nor folders of frames")
        self.kind = "video" if videos else "frames"
        self.found = sorted(videos or folders, key=lambda found: found.path)
        self._by_path = {found.path: found for found in self.found}
        self._by_name: dict[str, list[Found]] = defaultdict(list)
        for found in self.found:
            for name in self._names(found):
                self._by_name[name].append(found)

    def find(self, names: Sequence[str]) -> tuple[Found | None, str]:
        """The one file of the first name that there is, else None and why."""
        for name in names:
            if name in self._by_path:
                return self._by_path[name], ""
            found = self._by_name.get(name, [])
            if len(found) == 1:
                return found[0], ""
            if found:
                return None, f"{len(found)} files have that name: {found[0].path}, {found[1].path}"
        return None, "there is no such file"

    def _names(self, found: Found) -> set[str]:
        """Path, folder and name, and name alone, each with and without suffix."""
        path = PurePosixPath(found.path)
        bare = path.with_suffix("") if self.kind == "video" else path
        return {name for p in (path, bare) for name in (str(p), "/".join(p.parts[-2:]), p.name)}


def guess_template(name: str) -> str:
    """Guess the template of frames from the name of the first: its last number counts them."""
    numbers = list(re.finditer(r"\d+", name))
    if not numbers:
        return name
    start, end = numbers[-1].span()
    width = f":0{end - start}" if name[start] == "0" else ""
    return f"{name[:start]}{{{width}}}{name[end:]}"


def read_folder(root: Path, index: MediaIndex) -> Source:
    """Folders of classes, or train/, val/, test/ with folders of classes in them; in a class, clips at any depth."""
    entries = [(found.path, index.kind == "frames") for found in index.found]
    lone = next((path for path, _ in entries if len(PurePosixPath(path).parts) == 1), None)
    if lone and index.kind == "frames":
        raise SourceError(
            f"{root / lone} holds pictures itself, and a class should hold a folder for each clip; for classes of "
            "single pictures use `imagenet`"
        )
    return _by_class_folder(root, [path for path, _ in entries])


def read_image_folder(root: Path) -> tuple[Source, list[Found]]:
    """Folders of classes with pictures, or train/ and val/ of them, as ImageNet's; also gives the pictures."""
    if not root.is_dir():
        raise SourceError(f"{root} is not a folder; it should hold train/CLASS/*.JPEG")
    found = [
        Found((Path(folder).relative_to(root) / name).as_posix(), 1)
        for folder, _, files in os.walk(root, followlinks=True)
        for name in files
        if is_image_path(name)
    ]
    found.sort(key=lambda image: image.path)
    return _by_class_folder(root, [image.path for image in found]), found


def _by_class_folder(root: Path, paths: Sequence[str]) -> Source:
    """Sort paths by their folders: split, where the root has split folders, and class."""
    split_of = {name: split for split, names in SPLIT_FOLDERS.items() for name in names if (root / name).is_dir()}
    if "train" not in split_of.values():
        split_of = {}
    rows = []
    for path in paths:
        folders = PurePosixPath(path).parts[:-1]
        if split_of and (not folders or folders[0] not in split_of):
            continue
        split, folders = (split_of[folders[0]], folders[1:]) if split_of else ("train", folders)
        if not folders:
            raise SourceError(f"{root / path} lies in no class's folder; move it into one")
        rows.append((split, folders[0], path))
    if not rows:
        raise SourceError(f"{root} holds no folders of classes with clips in them")
    names = sorted({name for _, name, _ in rows})
    splits: dict[str, list[Entry]] = {split: [] for split in dict.fromkeys(split_of.values())} or {"train": []}
    for split, name, path in rows:
        splits[split].append(Entry((path,), names.index(name), str(root / path)))
    return Source({split: entries for split, entries in splits.items() if entries}, names)


def read_kinetics(files: dict[str, Path]) -> Source:
    """Kinetics' CSVs: columns label, youtube_id, time_start, time_end; classes in the order of the alphabet.

    A clip is looked for as ID_START_END with six digits each, or as ID, in any folder and with any suffix.
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
                start, end = (round(float(row[key])) for key in ("time_start", "time_end"))
                exact = (f"{row['youtube_id']}_{start:06}_{end:06}",)
            splits[split].append(Entry((*exact, row["youtube_id"]), label_of[row["label"]], place))
    return Source(splits, names)


def _csv_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV with a header, each with its place."""
    with _open(path) as file:
        reader = csv.DictReader(file)
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        if missing:
            raise SourceError(
                f"{path}, line 1: there is no column {', '.join(missing)}; Kinetics' files have label, youtube_id, "
                "time_start, time_end"
            )
        for row in reader:
            yield f"{path}, line {reader.line_num}", row


def read_something_something(files: dict[str, Path], labels: Path) -> Source:
    """Something-Something V2's JSON: id and template of each clip; `labels` maps template to number, as published."""
    numbers = {name: int(number) for name, number in _read_json(labels, dict).items()}
    names = sorted(numbers, key=numbers.get)
    if [numbers[name] for name in names] != list(range(len(names))):
        raise SourceError(f"{labels}: the labels are not the numbers from 0 to {len(names) - 1}")
    splits = {}
    for split, path in files.items():
        splits[split] = []
        for i, clip in enumerate(_read_json(path, list), start=1):
            place = f"{path}, clip {i}"
            if not isinstance(clip, dict) or "id" not in clip or "template" not in clip:
                raise SourceError(
                    f"{place}: there is no id or no template; the published test split has no labels, leave --test out"
                )
            template = re.sub(r"[\[\]]", "", clip["template"])
            if template not in numbers:
                raise SourceError(f'{place}: "{template}" is not in {labels}')
            splits[split].append(Entry((str(clip["id"]),), numbers[template], place))
    return Source(splits, names)


def read_ucf101(folder: Path, fold: int) -> Source:
    """UCF101's classInd.txt, trainlist0F.txt and testlist0F.txt."""
    number_of = {}
    for place, line in _lines(folder / "classInd.txt"):
        words = line.split()
        if len(words) != 2 or not words[0].isdigit():
            raise SourceError(f'{place}: should be `number class`, not "{line}"')
        number_of[words[1]] = int(words[0]) - 1
    splits = {}
    for split in ("train", "test"):
        splits[split] = []
        for place, line in _lines(folder / f"{split}list{fold:02}.txt"):
            path, *number = line.split()
            name = path.split("/")[0]
            if name not in number_of:
                raise SourceError(f'{place}: class "{name}" is not in {folder / "classInd.txt"}')
            if number and number != [str(number_of[name] + 1)]:
                raise SourceError(f"{place}: class {number[0]} should be {number_of[name] + 1}, as in classInd.txt")
            splits[split].append(Entry((path, path.rpartition(".")[0]), number_of[name], place))
    return Source(splits, sorted(number_of, key=number_of.get), UCF101_GROUP)


def read_hmdb51(folder: Path, fold: int) -> Source:
    """HMDB51's CLASS_test_splitF.txt: after each clip 1 (training), 2 (test) or 0 (unused in this fold)."""
    ending = f"_test_split{fold}.txt"
    files = sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []
    if not files:
        raise SourceError(f"{folder} has no files CLASS{ending}, as HMDB51's splits are named")
    names = [file.name.removesuffix(ending) for file in files]
    splits: dict[str, list[Entry]] = {"train": [], "test": []}
    for label, (name, file) in enumerate(zip(names, files, strict=True)):
        for place, line in _lines(file):
            clip, _, role = line.rpartition(" ")
            if role not in ("0", "1", "2") or not clip:
                raise SourceError(f'{place}: should be a clip and 0, 1 or 2, not "{line}"')
            if role != "0":
                path = f"{name}/{clip.strip()}"
                splits["train" if role == "1" else "test"].append(Entry((path, path.rpartition(".")[0]), label, place))
    return Source(splits, names, HMDB51_GROUP)


def _lines(path: Path) -> list[tuple[str, str]]:
    with _open(path) as file:
        return [(f"{path}, line {i}", line.strip()) for i, line in enumerate(file, start=1) if line.strip()]


def _read_json(path: Path, kind: type):
    with _open(path) as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise SourceError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, kind):
        raise SourceError(f"{path} should hold a JSON {'object' if kind is dict else 'array'}")
    return content


def _open(path: Path):
    if not path.is_file():
        raise SourceError(f"{path} is not there; it is one of the data set's own files")
    return open(path, encoding="utf-8-sig", newline="")
