"""Parse list files into records: the clips of a data set and their classes.

A list has one line per clip, and columns separated by space, tab, comma or semicolon. The kinds are:

    video    path label [ignored ...]              clips/a.mp4 3
    frames   folder total_frames [...] label       clips/a 48 3
    image    path label  or  path 1 label          n01440764/x.JPEG 0

Lists of segments of videos, which have a header, are described in datasets/segments.py.

The first column is always text (`00123` stays `00123`) and may contain spaces. Invalid lines raise an error that names
the file, each line, its content and what is expected; up to ten lines are reported at once.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

from datasets.list_lines import (
    INTEGER,
    RECOGNISED_FROM,
    LineError,
    evenly_spread,
    named_separator,
    read_text,
    recognise_separator,
    separator_words,
    split_columns,
)
from datasets.segments import Layout, Segment, Unit, find_layout

Kind = Literal["video", "frames", "image"]

VIDEO_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".3gp")
VIDEO_SUFFIXES += (".3g2", ".asf", ".divx", ".f4v", ".gif", ".m2ts", ".m2v", ".mts", ".mxf", ".ogv", ".rm", ".rmvb")
VIDEO_SUFFIXES += (".vob",)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
FORMS = {
    "video": "path label",
    "frames": "frame_folder total_frames label",
    "image": "path label, or path 1 label",
}
MAX_REPORTED = 10
MAX_DIGITS = 9
MAX_LOOKUPS = 32
"""Maximum number of paths looked up on disk if the kind of a list is not clear from its lines alone."""


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """A video file, or a segment of it.

    Its target is the class, when read from a list; `line` is its 1-based line in the list; `segment` is None for the
    whole video.
    """

    path: str
    target: int
    line: int
    segment: Segment | None = None


@dataclass(frozen=True, slots=True)
class FrameFolderRecord:
    """A folder of frames, or an image file (one frame). As `VideoRecord`, plus the number of frames in the folder."""

    path: str
    total_frames: int
    target: int
    line: int
    segment: Segment | None = None


Record = VideoRecord | FrameFolderRecord


class ListFileError(ValueError):
    """A list file is invalid; the message names the file, the lines and the remedy."""


class _InvalidLine(NamedTuple):
    """An invalid line: its 1-based number, its text and what is wrong with it."""

    number: int
    text: str
    reason: str


def read_list(
    list_file: str | os.PathLike,
    *,
    kind: Kind | None = None,
    data_root: str = "",
    split: str = "",
    num_classes: int = 0,
    segment_unit: Unit | None = None,
) -> tuple[list[Record], Kind]:
    """Read a list file.

    Args:
        list_file: UTF-8 text file; empty lines are skipped.
        kind: "video", "frames" or "image"; None detects it from the lines.
        data_root: Folder that relative paths are resolved against.
        split: Separator, in a form accepted by `named_separator`; "" detects it from the lines.
        num_classes: Upper limit of the labels (exclusive); 0 accepts all labels from 0.
        segment_unit: "seconds" or "frames" for a list of segments without a header.

    Returns:
        The records in the order of the list, and the kind.

    Raises:
        FileNotFoundError: The list does not exist.
        ListFileError: The list is empty, not text, or has invalid lines.
    """
    text = _read_list_text(Path(list_file))
    lines = [line for _, line in _numbered_lines(text)]
    layout = _layout(list_file, lines[0], segment_unit)
    separator = layout.separator if layout else None
    separator = separator or (named_separator(split) if split else recognise_separator(lines))
    if layout:
        kind = "frames" if layout.folders else "video"
    kind = kind or recognise_kind(lines, separator, lambda path: _kind_on_disk(os.path.join(data_root, path)))
    records, faults = _parse(text, kind, data_root, separator, layout)
    if num_classes:
        faults = sorted([*faults, *_labels_out_of_range(records, num_classes, text)])
    if faults:
        raise ListFileError(_describe(list_file, layout or kind, separator, faults))
    if not records:
        raise ListFileError(f"{list_file} has no line after its header")
    return list(records), kind


def has_header(list_file: str | os.PathLike) -> bool:
    """Return whether the first line of a list names its columns, as in lists of segments."""
    (_, first), *_ = _numbered_lines(_read_list_text(Path(list_file)))
    layout = _layout(list_file, first, None)
    return layout is not None and layout.has_header


def _layout(list_file: str | os.PathLike, first_line: str, segment_unit: Unit | None) -> Layout | None:
    try:
        return find_layout(first_line, segment_unit)
    except LineError as error:
        raise ListFileError(f"{list_file}, line 1: {error}") from error


@lru_cache(maxsize=4)
def _parse(
    text: str, kind: Kind, root: str, separator: str, layout: Layout | None
) -> tuple[list[Record], list[_InvalidLine]]:
    """Parse a list, once per process: every mode reads the training list to count its classes."""
    records, faults = [], []
    for number, line in _numbered_lines(text)[1 if layout and layout.has_header else 0 :]:
        try:
            records.append(parse_line(line, kind, root, number, separator, layout))
        except LineError as error:
            faults.append(_InvalidLine(number, line, str(error)))
    return records, faults


def parse_line(line: str, kind: Kind, root: str, number: int, separator: str, layout: Layout | None) -> Record:
    """Parse one line of a list; raise `LineError` if it is invalid."""
    columns = split_columns(line, separator)
    if layout:
        return _parse_segment(layout.cells(columns), layout, root, number)
    return _PARSERS[kind](columns, root, number, separator)


def is_image_path(path: str) -> bool:
    """Return whether a path has the suffix of an image file."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def is_single_image(record: FrameFolderRecord) -> bool:
    """Return whether a record of an image list is an image file rather than a folder of frames."""
    return record.total_frames == 1 and is_image_path(record.path)


def resolve_video_path(path: str) -> str:
    """Add the suffix of the existing file to a path without one; some lists contain bare video ids."""
    if os.path.splitext(path)[1] or os.path.exists(path):
        return path
    for suffix in VIDEO_SUFFIXES:
        if os.path.isfile(path + suffix):
            return path + suffix
    return path


def find_absent(records: Sequence[Record]) -> list[tuple[Record, str]]:
    """Check that the file or folder of each record exists, without opening it; return those that fail, and why."""
    faults = [(record, _path_fault(record)) for record in records]
    return [(record, fault) for record, fault in faults if fault]


def _path_fault(record: Record) -> str:
    path = record.path
    folder = isinstance(record, FrameFolderRecord) and not is_single_image(record)
    path = path if folder else resolve_video_path(path)
    if os.path.isdir(path) if folder else os.path.isfile(path):
        return ""
    if not os.path.exists(path):
        return "does not exist"
    return "is a file, not a folder of frames" if folder else "is a folder, not a file"


def _kind_on_disk(path: str) -> Kind | None:
    """Look up on disk what a path is; None if it does not exist."""
    if os.path.isdir(path):
        return "frames"
    path = resolve_video_path(path)
    return None if not os.path.isfile(path) else "image" if is_image_path(path) else "video"


def _read_list_text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"list file {path} does not exist")
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        raise ListFileError(f"{path} is not UTF-8 text ({error}); it should contain lines `path label`") from error
    if not text.strip():
        raise ListFileError(f"{path} is empty; it should contain a line `path label` for each clip")
    return text


def _numbered_lines(text: str) -> list[tuple[int, str]]:
    """Return the lines that are not blank, each with its 1-based number."""
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def recognise_kind(lines: Sequence[str], separator: str, look: Callable[[str], Kind | None]) -> Kind:
    """Detect the kind by majority vote, so that a few invalid lines are reported as errors of that kind.

    Args:
        lines: Non-blank lines of the list.
        separator: Separator of the columns.
        look: Returns the kind of a path on disk. Called if two or more numbers follow the path, because the line is
            then ambiguous: frame folders may be named `v_a.avi`, and lines of videos may have ignored columns.
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
        seen: Counter[Kind] = Counter(look(path) or kind for path in evenly_spread(paths, MAX_LOOKUPS))
        votes[seen.most_common(1)[0][0]] += len(paths)
    return votes.most_common(1)[0][0]


def _parse_video(columns: list[str], root: str, line: int, separator: str) -> VideoRecord:
    """Parse `path label [ignored ...]`; the path ends at a video suffix, or else is the first column."""
    end = _end_of_path(columns, separator, lambda column: column.lower().endswith(VIDEO_SUFFIXES))
    if end is not None and end + 1 < len(columns):
        return VideoRecord(_join(root, separator.join(columns[: end + 1])), _label(columns[end + 1]), line)
    if len(columns) < 2:
        raise LineError("there is no label")
    if INTEGER.fullmatch(columns[1]):
        return VideoRecord(_join(root, columns[0]), _label(columns[1]), line)
    return VideoRecord(_join(root, separator.join(columns[:-1])), _label(columns[-1]), line)


def _parse_segment(cells: dict[str, str], layout: Layout, root: str, line: int) -> Record:
    """Parse the columns of a list of segments."""
    path, segment = _join(root, cells["path"]), layout.segment(cells)
    if not layout.folders:
        return VideoRecord(path, _label(cells["label"]), line, segment)
    total = _integer(cells["total_frames"], "total_frames")
    if segment and segment.end > total:
        raise LineError(f"the segment ends at frame {segment.end:g}, but the folder has {total}")
    return FrameFolderRecord(path, total, _label(cells["label"]), line, segment)


def _parse_frames(columns: list[str], root: str, line: int, separator: str) -> FrameFolderRecord:
    """Parse `folder total_frames [ignored ...] label`."""
    if len(columns) < 3:
        raise LineError("there are fewer than three columns")
    if len(columns) > 3 and all(INTEGER.fullmatch(column) for column in columns[1:]):
        raise LineError("it is not clear where the folder's name ends and the number of frames begins; quote the name")
    if INTEGER.fullmatch(columns[1]):
        folder, total = columns[0], _integer(columns[1], "total_frames")
    else:
        folder, total = separator.join(columns[:-2]), _integer(columns[-2], "total_frames")
    if total < 1:
        raise LineError(f"total_frames is {total}; a folder without frames cannot be used")
    return FrameFolderRecord(_join(root, folder), total, _label(columns[-1]), line)


def _parse_image(columns: list[str], root: str, line: int, separator: str) -> FrameFolderRecord:
    """Parse `path label` or, for folders of frames and for images, `path total_frames label`."""
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
    """Find the column in which the path ends (it may contain separators); None if no column has a suffix."""
    end = next((i for i, column in enumerate(columns) if has_suffix(column)), None)
    if end and separator != " " and INTEGER.fullmatch(columns[0]):
        raise LineError(
            f"{columns[0]} comes before the path; omit row numbers (pandas: index=False), and quote a path "
            "that contains the separator"
        )
    return end


def _label(text: str) -> int:
    label = _integer(text, "label")
    if label < 0:
        raise LineError(f"label {label} is negative; labels count from 0")
    return label


def _integer(text: str, what: str) -> int:
    if not INTEGER.fullmatch(text):
        raise LineError(f'{what} should be a whole number, not "{text}"')
    digits = text.partition(".")[0]
    if len(digits) > MAX_DIGITS:
        raise LineError(f"{what} has {len(digits)} digits")
    return int(digits)


def _join(root: str, path: str) -> str:
    if not path:
        raise LineError("the path is empty")
    return os.path.join(root, path)


def _labels_out_of_range(records: Sequence[Record], num_classes: int, text: str) -> list[_InvalidLine]:
    wrong = {record.line: record.target for record in records if record.target >= num_classes}
    return [
        _InvalidLine(
            number,
            line,
            f"label {wrong[number]} is out of range: {num_classes} classes have labels 0 to {num_classes - 1}"
            " (set by --nb_classes)",
        )
        for number, line in (_numbered_lines(text) if wrong else [])
        if number in wrong
    ]


def _describe(
    list_file: str | os.PathLike, form: Kind | Layout, separator: str, faults: Sequence[_InvalidLine]
) -> str:
    """Write the message of a `ListFileError`."""
    columns = separator.join(form.columns) if isinstance(form, Layout) else FORMS[form]
    shown = [f'  line {fault.number}: {fault.reason}: "{fault.text[:200]}"' for fault in faults[:MAX_REPORTED]]
    if len(faults) > MAX_REPORTED:
        shown.append(f"  and {len(faults) - MAX_REPORTED} more")
    remedy = (
        f"Each line should be `{columns}` with {separator_words(separator)} between the columns (--split changes it)."
    )
    if faults[0].number == 1 and not any(character.isdigit() for character in faults[0].text):
        remedy += " Line 1 looks like a header, which only lists of segments have; remove it."
    return "\n".join([f"{list_file}: {len(faults)} invalid line(s)", *shown, remedy])
