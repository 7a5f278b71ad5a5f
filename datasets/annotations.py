"""List files -> records: which clips there are and what class each has.

Three kinds of list, one line a clip, no header, any of space, tab, comma or semicolon between the columns:

    video    path label [ignored ...]              clips/a.mp4 3
    frames   folder total_frames [...] label       clips/a 48 3
    image    path label  or  path 1 label          n01440764/x.JPEG 0

The first column is always text, `00123` stays `00123`, and it may hold spaces. Every faulty line is an error that
names the file, the line, what stands there and what should; up to ten of them are told at once.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from datasets.list_lines import (
    INTEGER,
    RECOGNISED_FROM,
    evenly_spread,
    named_separator,
    quote,
    read_text,
    recognise_separator,
    separator_words,
    split_columns,
)

Kind = Literal["video", "frames", "image"]

# fmt: off
VIDEO_SUFFIXES = (
    ".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp", ".3g2", ".asf",
    ".divx", ".f4v", ".gif", ".m2ts", ".m2v", ".mts", ".mxf", ".ogv", ".rm", ".rmvb", ".vob",
)
# fmt: on
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
FORMS = {
    "video": "path label",
    "frames": "frame_folder total_frames label",
    "image": "path label, or path 1 label",
}
MAX_TOLD = 10
MAX_DIGITS = 9
LOOKED_AT = 32
"""Paths looked for on the disk where the lines alone do not tell what a list names."""


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


class _Fault(NamedTuple):
    """A faulty line: its 1-based number, what stands there, and what is wrong with it."""

    number: int
    text: str
    reason: str


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
        split: the separator, as `named_separator` takes it; "": recognised.
        num_classes: labels must be below it; 0: any label from 0 on.

    Returns:
        the records in the order of the list, and the kind.

    Raises:
        FileNotFoundError: the list is not there.
        ListFileError: it is empty, not text, or has faulty lines.
    """
    text = _read_list_text(Path(list_file))
    lines = [line for _, line in _numbered_lines(text)]
    separator = named_separator(split) if split else recognise_separator(lines)
    kind = kind or _recognise_kind(lines, separator, lambda path: _kind_on_disk(os.path.join(data_root, path)))
    records, faults = _parse(text, kind, data_root, separator)
    if num_classes:
        faults = sorted([*faults, *_labels_out_of_range(records, num_classes, text)])
    if faults:
        raise ListFileError(_describe(list_file, kind, separator, faults))
    return list(records), kind


@lru_cache(maxsize=4)
def _parse(text: str, kind: Kind, root: str, separator: str) -> tuple[list[Record], list[_Fault]]:
    """Parse each list once in a process: all modes ask for the training list, to count its classes."""
    records, faults = [], []
    for number, line in _numbered_lines(text):
        try:
            records.append(_PARSERS[kind](split_columns(line, separator), root, number, separator))
        except _LineError as error:
            faults.append(_Fault(number, line, str(error)))
    return records, faults


def format_list(records: Sequence[Record], kind: Kind) -> str:
    """Write records as the text of a list that `read_list` reads as the same records, their lines counted from 1.

    Raises:
        ListFileError: a name that no line can hold, such as one with a line break or with bytes that are no UTF-8.
    """
    lines = []
    for record in records:
        total = f" {record.total_frames}" if isinstance(record, FrameFolderRecord) else ""
        lines.append(f"{quote(record.path)}{total} {record.target}")
    for line, record in zip(lines, records, strict=True):
        if _read_back(line, kind) != replace(record, line=1):
            raise ListFileError(f"no line of a list can say {record.path!r}; rename it")
    return "".join(f"{line}\n" for line in lines)


def _read_back(line: str, kind: Kind) -> Record | None:
    """The record that a line of our own will be read as, None where it is none."""
    if len(line.splitlines()) != 1 or not _is_text(line) or _recognise_kind([line], " ", lambda _: kind) != kind:
        return None
    try:
        return _PARSERS[kind](split_columns(line, " "), "", 1, " ")
    except _LineError:
        return None


def _is_text(line: str) -> bool:
    """Whether a line can be written; names of files may hold bytes that are no text."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_image_path(path: str) -> bool:
    """Tell whether a path ends as image files do."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def is_single_image(record: FrameFolderRecord) -> bool:
    """Tell whether a record of a list of images names an image file, and no folder of frames."""
    return record.total_frames == 1 and is_image_path(record.path)


def resolve_video_path(path: str) -> str:
    """Complete a path without suffix, as bare video ids are listed, by the suffix of the file that is there."""
    if os.path.splitext(path)[1] or os.path.exists(path):
        return path
    for suffix in VIDEO_SUFFIXES:
        if os.path.isfile(path + suffix):
            return path + suffix
    return path


def find_absent(records: Sequence[Record]) -> list[tuple[Record, str]]:
    """Look for the file or folder of every record, without opening it; gives those that will not do, and why."""
    faults = [(record, _path_fault(record)) for record in records]
    return [(record, fault) for record, fault in faults if fault]


def _path_fault(record: Record) -> str:
    path = record.path
    folder = isinstance(record, FrameFolderRecord) and not is_single_image(record)
    path = path if folder else resolve_video_path(path)
    if os.path.isdir(path) if folder else os.path.isfile(path):
        return ""
    if not os.path.exists(path):
        return "is not there"
    return "is a file, not a folder of frames" if folder else "is a folder, not a file"


def _kind_on_disk(path: str) -> Kind | None:
    """What a path is that is followed by two numbers or more, None where it is not there."""
    if os.path.isdir(path):
        return "frames"
    path = resolve_video_path(path)
    return None if not os.path.isfile(path) else "image" if is_image_path(path) else "video"


def _read_list_text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"list file {path} is not there")
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        raise ListFileError(f"{path} is not UTF-8 text ({error}); it should hold lines `path label`") from error
    if not text.strip():
        raise ListFileError(f"{path} is empty; it should hold a line `path label` for each clip")
    return text


def _numbered_lines(text: str) -> list[tuple[int, str]]:
    """The lines that hold something, each with its 1-based number."""
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def _recognise_kind(lines: Sequence[str], separator: str, look: Callable[[str], Kind | None]) -> Kind:
    """Decide by what most lines look like, so that a few faulty ones are told as faults of that kind.

    Args:
        look: tells what a path is. It is asked where two numbers or more follow the path, which says little: frame
            folders may be called `v_a.avi`, and a video's line may have columns that are ignored.
    """
    votes: Counter[Kind] = Counter({"frames": 0, "image": 0, "video": 0})
    unsure: dict[Kind, list[str]] = {}
    kind: Kind
    for line in evenly_spread(lines, RECOGNISED_FROM):
        columns = split_columns(line, separator)
        numbers = 0
        while numbers < len(columns) - 1 and INTEGER.fullmatch(columns[-1 - numbers]):
            numbers += 1
        if any(column.lower().endswith(VIDEO_SUFFIXES) for column in columns):
            kind = "video"
        elif any(is_image_path(column) for column in columns):
            kind = "image"
        else:
            kind = "frames" if numbers >= 2 else "video"
        if numbers >= 2:
            unsure.setdefault(kind, []).append(separator.join(columns[: len(columns) - numbers]))
        else:
            votes[kind] += 1
    for kind, paths in unsure.items():
        seen: Counter[Kind] = Counter(look(path) or kind for path in evenly_spread(paths, LOOKED_AT))
        votes[seen.most_common(1)[0][0]] += len(paths)
    return votes.most_common(1)[0][0]


def _parse_video(columns: list[str], root: str, line: int, separator: str) -> VideoRecord:
    """`path label [ignored ...]`: the path ends at a video suffix, else it is the first column."""
    end = _end_of_path(columns, separator, lambda column: column.lower().endswith(VIDEO_SUFFIXES))
    if end is not None and end + 1 < len(columns):
        return VideoRecord(_join(root, separator.join(columns[: end + 1])), _label(columns[end + 1]), line)
    if len(columns) < 2:
        raise _LineError("there is no label")
    if INTEGER.fullmatch(columns[1]):
        return VideoRecord(_join(root, columns[0]), _label(columns[1]), line)
    return VideoRecord(_join(root, separator.join(columns[:-1])), _label(columns[-1]), line)


def _parse_frames(columns: list[str], root: str, line: int, separator: str) -> FrameFolderRecord:
    """`folder total_frames [ignored ...] label`."""
    if len(columns) < 3:
        raise _LineError("there are fewer than three columns")
    if len(columns) > 3 and all(INTEGER.fullmatch(column) for column in columns[1:]):
        raise _LineError("the end of the folder's name cannot be told from the number of frames; quote the name")
    if INTEGER.fullmatch(columns[1]):
        folder, total = columns[0], _integer(columns[1], "total_frames")
    else:
        folder, total = separator.join(columns[:-2]), _integer(columns[-2], "total_frames")
    if total < 1:
        raise _LineError(f"total_frames is {total}; a folder without frames cannot be used")
    return FrameFolderRecord(_join(root, folder), total, _label(columns[-1]), line)


def _parse_image(columns: list[str], root: str, line: int, separator: str) -> FrameFolderRecord:
    """`path label` or, for folders of frames and for images alike, `path total_frames label`."""
    end = _end_of_path(columns, separator, is_image_path)
    if end is not None:
        columns = [separator.join(columns[: end + 1]), *columns[end + 1 :]]
    if len(columns) == 2:
        return FrameFolderRecord(_join(root, columns[0]), 1, _label(columns[1]), line)
    return _parse_frames(columns, root, line, separator)


_PARSERS: dict[str, Callable[[list[str], str, int, str], Record]] = {
    "video": _parse_video,
    "frames": _parse_frames,
    "image": _parse_image,
}


def _end_of_path(columns: list[str], separator: str, has_suffix: Callable[[str], bool]) -> int | None:
    """Find the column that ends a path which may hold separators, None where no column has a suffix."""
    end = next((i for i, column in enumerate(columns) if has_suffix(column)), None)
    if end and separator != " " and INTEGER.fullmatch(columns[0]):
        raise _LineError(
            f"{columns[0]} stands before the path; leave out row numbers (pandas: index=False), and quote a path "
            "that holds the separator"
        )
    return end


def _label(text: str) -> int:
    label = _integer(text, "label")
    if label < 0:
        raise _LineError(f"label {label} is negative; labels count from 0")
    return label


def _integer(text: str, what: str) -> int:
    if not INTEGER.fullmatch(text):
        raise _LineError(f'{what} should be a whole number, not "{text}"')
    digits = text.partition(".")[0]
    if len(digits) > MAX_DIGITS:
        raise _LineError(f"{what} has {len(digits)} digits")
    return int(digits)


def _join(root: str, path: str) -> str:
    if not path:
        raise _LineError("the path is empty")
    return os.path.join(root, path)


def _labels_out_of_range(records: Sequence[Record], num_classes: int, text: str) -> list[_Fault]:
    wrong = {record.line: record.target for record in records if record.target >= num_classes}
    return [
        _Fault(
            number,
            line,
            f"label {wrong[number]} is out of range: {num_classes} classes have the labels 0 to {num_classes - 1}"
            " (--nb_classes says how many there are)",
        )
        for number, line in (_numbered_lines(text) if wrong else [])
        if number in wrong
    ]


def _describe(list_file: str | os.PathLike, kind: Kind, separator: str, faults: Sequence[_Fault]) -> str:
    """Word the message of a `ListFileError`."""
    shown = [f'  line {fault.number}: {fault.reason}: "{fault.text[:200]}"' for fault in faults[:MAX_TOLD]]
    if len(faults) > MAX_TOLD:
        shown.append(f"  and {len(faults) - MAX_TOLD} more")
    remedy = (
        f"Each line should be `{FORMS[kind]}` with {separator_words(separator)} between the columns "
        "(--split sets another)."
    )
    if faults[0].number == 1 and not any(character.isdigit() for character in faults[0].text):
        remedy += " Line 1 looks like a header; lists have none, remove it."
    return "\n".join([f"{list_file}: {len(faults)} faulty line(s)", *shown, remedy])
