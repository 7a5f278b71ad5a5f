"""List files -> records: which clips there are and what class each has.

Three kinds of list, one line a clip, no header, any of space, tab or comma between the columns:

    video    path label [ignored ...]              clips/a.mp4 3
    frames   folder total_frames [...] label       clips/a 48 3
    image    path label  or  path 1 label          n01440764/x.JPEG 0

The first column is always text, `00123` stays `00123`, and it may hold spaces. Every faulty line is an error that
names the file, the line, what stands there and what should; up to ten of them are told at once.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Kind = Literal["video", "frames", "image"]

VIDEO_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
FORMS = {
    "video": "path label",
    "frames": "frame_folder total_frames label",
    "image": "path label, or path 1 label",
}
MAX_TOLD = 10

_SEPARATOR_NAMES = {"space": " ", "tab": "\t", "comma": ",", r"\t": "\t"}
_INTEGER = re.compile(r"[+-]?\d+")


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """A video file: where it is, its target (in a list, its class), and the 1-based line of its list."""

    path: str
    target: int
    line: int


@dataclass(frozen=True, slots=True)
class FrameFolderRecord:
    """A folder of frames, or an image file (one frame): as `VideoRecord`, with the number of frames."""

    path: str
    total_frames: int
    target: int
    line: int


Record = VideoRecord | FrameFolderRecord


class ListFileError(ValueError):
    """A list file that cannot be used; the message names file, lines and remedy."""


class _LineError(ValueError):
    """What is wrong with one line, without its place."""


def find_list(data_path: str | os.PathLike, name: str) -> Path:
    """Find the list `name` ("train", "val", "test") in a folder, as .csv or .txt.

    Raises:
        FileNotFoundError: the folder or the list is not there.
    """
    folder = Path(data_path)
    if not folder.is_dir():
        raise FileNotFoundError(f"--data_path {folder} is not a folder; it should hold train.csv, val.csv, test.csv")
    for suffix in (".csv", ".txt"):
        if (folder / (name + suffix)).is_file():
            return folder / (name + suffix)
    there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:10]) or "nothing"
    raise FileNotFoundError(
        f"no {name}.csv or {name}.txt in {folder} (there is: {there}); add it or name the list with --{name}_list"
    )


def read_list(
    list_file: str | os.PathLike,
    *,
    kind: Kind | None = None,
    data_root: str = "",
    split: str = "",
    num_classes: int = 0,
) -> tuple[list[Record], Kind]:
    """Read a list file.

    Args:
        list_file: the file, UTF-8 text; empty lines are skipped.
        kind: "video", "frames" or "image"; None: recognised from the lines.
        data_root: joined in front of every path that is not absolute.
        split: the separator (a character, or "space", "tab", "comma"); "": recognised.
        num_classes: labels must be below it; 0: any label from 0 on.

    Returns:
        the records in the order of the list, and the kind.

    Raises:
        FileNotFoundError: the list is not there.
        ListFileError: it is empty, not text, or has faulty lines.
    """
    lines = _read_lines(Path(list_file))
    separator = _named_separator(split) if split else _recognise_separator([text for _, text in lines])
    rows = [(number, text, _columns(text, separator)) for number, text in lines]
    kind = kind or _recognise_kind([columns for _, _, columns in rows])
    parse = _PARSERS[kind]
    records, faults = [], []
    for number, text, columns in rows:
        try:
            record = parse(columns, data_root, number)
            _check_label(record.target, num_classes)
        except _LineError as error:
            faults.append((number, text, str(error)))
        else:
            records.append(record)
    if faults:
        raise ListFileError(_describe(list_file, kind, separator, faults))
    return records, kind


def format_list(records: Sequence[Record], kind: Kind) -> str:
    """Write records as the text of a list that `read_list` reads as the same records, their lines counted from 1.

    Raises:
        ListFileError: a name that no line can hold, such as one with a line break, or a folder named as a video.
    """
    lines = []
    for record in records:
        path = '"' + record.path.replace('"', '""') + '"' if re.search(r'[\s",]', record.path) else record.path
        total = f" {record.total_frames}" if isinstance(record, FrameFolderRecord) else ""
        lines.append(f"{path}{total} {record.target}")
    for line, record in zip(lines, records, strict=True):
        if _read_back(line, kind) != replace(record, line=1):
            raise ListFileError(f"no line of a list can say {record.path!r}; rename it")
    return "".join(f"{line}\n" for line in lines)


def _read_back(line: str, kind: Kind) -> Record | None:
    """The record that a line of our own will be read as, None where it is none."""
    if len(line.splitlines()) != 1 or _recognise_kind([_columns(line, " ")]) != kind:
        return None
    try:
        return _PARSERS[kind](_columns(line, " "), "", 1)
    except _LineError:
        return None


def count_classes(records: Sequence[Record]) -> int:
    """Give the number of classes a list needs: its highest label + 1."""
    return max(record.target for record in records) + 1


def is_image_path(path: str) -> bool:
    """Tell whether a path ends as image files do."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def resolve_video_path(path: str) -> str:
    """Complete a path without suffix, as bare video ids are listed, by the suffix of the file that is there."""
    if os.path.splitext(path)[1] or os.path.exists(path):
        return path
    for suffix in VIDEO_SUFFIXES:
        if os.path.isfile(path + suffix):
            return path + suffix
    return path


def check_files_exist(records: Sequence[Record]) -> list[Record]:
    """Return the records whose file or frame folder is not there (nothing is opened)."""
    return [record for record in records if not os.path.exists(resolve_video_path(record.path))]


def _read_lines(path: Path) -> list[tuple[int, str]]:
    """Read the lines that hold something, each with its 1-based number."""
    if not path.is_file():
        raise FileNotFoundError(f"list file {path} is not there")
    try:
        # utf-8-sig: spreadsheets write a byte order mark that would become part of the first path
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ListFileError(f"{path} is not UTF-8 text ({error}); it should hold lines `path label`") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise ListFileError(f"{path} is empty; it should hold a line `path label` for each clip")
    return lines


def _named_separator(split: str) -> str:
    separator = _SEPARATOR_NAMES.get(split, split)
    if len(separator) != 1:
        raise ValueError(f'--split is one character, or "space", "tab" or "comma"; not "{split}"')
    return separator


def _recognise_separator(texts: list[str]) -> str:
    """Take the separator behind which the most lines end in a number; a path may hold the others.

    Tabs and commas go first: where a line ends in a number behind one of them, a space is part of its path.
    """

    def ends_in_number(text: str, separator: str) -> bool:
        return separator in text and bool(_INTEGER.fullmatch(text.rpartition(separator)[2].strip()))

    scores = {separator: sum(ends_in_number(text, separator) for text in texts) for separator in ("\t", ",", " ")}
    return max(scores, key=scores.get) if any(scores.values()) else " "


def _columns(text: str, separator: str) -> list[str]:
    """Cut a line into columns; a quoted first column may hold the separator, several spaces count as one."""
    first = []
    quoted = re.match(r'"((?:[^"]|"")*)"\s*(?:' + re.escape(separator) + r"|\s|$)", text)
    if quoted:
        first = [quoted[1].replace('""', '"')]
        text = text[quoted.end() :]
    rest = text.split(" ") if separator == " " else [column.strip() for column in text.split(separator)]
    if separator == " ":
        # empty pieces of the numbers' side are extra spaces; on the path's side they belong to the path
        while "" in rest and _INTEGER.fullmatch(rest[-1]) and rest[-2] == "":
            del rest[-2]
    return first + [column for column in rest if column or not first]


def _recognise_kind(rows: list[list[str]]) -> Kind:
    """Decide by what most lines look like, so that a few faulty ones are told as faults of that kind."""
    votes = {"frames": 0, "image": 0, "video": 0}
    for columns in rows:
        numbers = 0
        while numbers < len(columns) - 1 and _INTEGER.fullmatch(columns[-1 - numbers]):
            numbers += 1
        if any(column.lower().endswith(VIDEO_SUFFIXES) for column in columns):
            votes["video"] += 1
        elif any(is_image_path(column) for column in columns):
            votes["image"] += 1
        else:
            votes["frames" if numbers >= 2 else "video"] += 1
    return max(votes, key=votes.get)


def _parse_video(columns: list[str], root: str, line: int) -> VideoRecord:
    """`path label [ignored ...]`: the path ends at a video suffix, else it is the first column."""
    for i in range(len(columns) - 1):
        if columns[i].lower().endswith(VIDEO_SUFFIXES):
            return VideoRecord(_join(root, " ".join(columns[: i + 1])), _integer(columns[i + 1], "label"), line)
    if len(columns) < 2:
        raise _LineError("there is no label")
    if _INTEGER.fullmatch(columns[1]):
        return VideoRecord(_join(root, columns[0]), int(columns[1]), line)
    return VideoRecord(_join(root, " ".join(columns[:-1])), _integer(columns[-1], "label"), line)


def _parse_frames(columns: list[str], root: str, line: int) -> FrameFolderRecord:
    """`folder total_frames [ignored ...] label`."""
    if len(columns) < 3:
        raise _LineError("there are fewer than three columns")
    if len(columns) > 3 and all(_INTEGER.fullmatch(column) for column in columns[1:]):
        raise _LineError("the end of the folder's name cannot be told from the number of frames; quote the name")
    if _INTEGER.fullmatch(columns[1]):
        folder, total = columns[0], int(columns[1])
    else:
        folder, total = " ".join(columns[:-2]), _integer(columns[-2], "total_frames")
    if total < 1:
        raise _LineError(f"total_frames is {total}; a folder without frames cannot be used")
    return FrameFolderRecord(_join(root, folder), total, _integer(columns[-1], "label"), line)


def _parse_image(columns: list[str], root: str, line: int) -> FrameFolderRecord:
    """`path label` or, for folders of frames and for images alike, `path total_frames label`."""
    end = next((i for i, column in enumerate(columns) if is_image_path(column)), None)
    if end is not None:
        columns = [" ".join(columns[: end + 1]), *columns[end + 1 :]]
    if len(columns) == 2:
        return FrameFolderRecord(_join(root, columns[0]), 1, _integer(columns[1], "label"), line)
    return _parse_frames(columns, root, line)


_PARSERS: dict[str, Callable[[list[str], str, int], Record]] = {
    "video": _parse_video,
    "frames": _parse_frames,
    "image": _parse_image,
}


def _integer(text: str, what: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise _LineError(f'{what} should be a whole number, not "{text}"')
    return int(text)


def _join(root: str, path: str) -> str:
    if not path:
        raise _LineError("the path is empty")
    return os.path.join(root, path)


def _check_label(label: int, num_classes: int) -> None:
    if label < 0:
        raise _LineError(f"label {label} is negative; labels count from 0")
    if num_classes and label >= num_classes:
        raise _LineError(
            f"label {label} is out of range: {num_classes} classes have the labels 0 to {num_classes - 1}"
            " (--nb_classes says how many there are)"
        )


def _describe(list_file: str | os.PathLike, kind: Kind, separator: str, faults: list[tuple[int, str, str]]) -> str:
    """Word the message of a `ListFileError`."""
    name = {" ": "a space", "\t": "a tab", ",": "a comma"}.get(separator, f'"{separator}"')
    shown = [f'  line {number}: {reason}: "{text[:200]}"' for number, text, reason in faults[:MAX_TOLD]]
    if len(faults) > MAX_TOLD:
        shown.append(f"  and {len(faults) - MAX_TOLD} more")
    remedy = f"Each line should be `{FORMS[kind]}` with {name} between the columns (--split sets another)."
    if faults[0][0] == 1 and not any(character.isdigit() for character in faults[0][1]):
        remedy += " Line 1 looks like a header; lists have none, remove it."
    return "\n".join([f"{list_file}: {len(faults)} faulty line(s)", *shown, remedy])
