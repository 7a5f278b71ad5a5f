"""Parse list files into records: the clips of a data set and their labels.

A list has one line per clip, and columns separated by space, tab, comma or semicolon. The kinds are:

    video    path label [ignored ...]              clips/a.mp4 3
    frames   folder total_frames [...] label       clips/a 48 3
    image    path label  or  path 1 label          n01440764/x.JPEG 0

The label is an integer; datasets/labels.py describes the labels of other tasks, such as `3;17;40`, and
datasets/segments.py lists of segments of videos, which have a header.

The first column is always text (`00123` stays `00123`) and may contain spaces. Invalid lines raise an error that names
the file, each line, its content and what is expected; up to ten lines are reported at once.
"""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from datasets.labels import (
    LabelTask,
    Target,
    label_form,
    may_be_empty,
    misfit,
    parse_integer,
    parse_label,
)
from datasets.list_lines import (
    INTEGER,
    JOINT,
    RECOGNISED_FROM,
    LineError,
    evenly_spread,
    join_path,
    named_separator,
    numbered_lines,
    read_text,
    recognise_separator,
    separator_words,
    some_lines,
    split_columns,
    split_with_spaces,
    stripped,
)
from datasets.plain_lines import append_plain, plain_line
from datasets.records import FrameFolderRecord, Record, RecordTable, VideoRecord
from datasets.segments import Layout, Unit, find_layout

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
MAX_REMEMBERED = 4  # lists
PARSED_AT_ONCE = 64  # lines; if one of them is not plain, they are read one by one
MAX_LOOKUPS = 32
"""Maximum number of paths looked up on disk if the kind of a list is not clear from its lines alone."""


class ListFileError(ValueError):
    """A list file is invalid; the message names the file, the lines and the remedy."""


class EmptyListError(ListFileError):
    """A list has a header alone."""


class LineForm(NamedTuple):
    """How the lines of a list are read: separator of the columns, task, folder of relative paths, named columns."""

    separator: str
    task: LabelTask = "classification"
    root: str = ""
    layout: Layout | None = None


class _InvalidLine(NamedTuple):
    """An invalid line: its 1-based number, its text and what is wrong with it."""

    number: int
    text: str
    reason: str


_parsed: dict[tuple[bytes, Kind, LineForm], tuple[RecordTable, list[_InvalidLine]]] = {}
"""The lists read last, by the digest of their text."""


def read_list(
    list_file: str | os.PathLike,
    *,
    kind: Kind | None = None,
    data_root: str = "",
    split: str = "",
    num_classes: int = 0,
    task: LabelTask = "classification",
    segment_unit: Unit | None = None,
) -> tuple[Sequence[Record], Kind]:
    """Read a list file.

    Args:
        list_file: UTF-8 text file; empty lines are skipped.
        kind: "video", "frames" or "image"; None detects it from the lines.
        data_root: Folder that relative paths are resolved against.
        split: Separator, in a form accepted by `named_separator`; "" detects it from the lines.
        num_classes: Upper limit of the labels (exclusive), or the number of targets; 0 accepts all.
        task: What the labels are.
        segment_unit: "seconds" or "frames" for a list of segments without a header.

    Returns:
        The records in the order of the list, and the kind.

    Raises:
        FileNotFoundError: The list does not exist.
        ListFileError: The list is empty, not text, or has invalid lines.
    """
    text = _read_list_text(Path(list_file))
    lines = some_lines(text)
    layout = _layout(list_file, lines[0], segment_unit)
    separator = layout.separator if layout else None
    separator = separator or (named_separator(split) if split else recognise_separator(lines, label_form(task)))
    form = LineForm(separator, task, data_root, layout)
    if layout:
        kind = "frames" if layout.folders else "video"
    kind = kind or recognise_kind(lines, form, lambda path: _kind_on_disk(os.path.join(data_root, path)))
    records, faults = _parse(text, kind, form)
    targets = records.targets() if num_classes else []
    misfits = {target: fault for target in set(targets) if (fault := misfit(target, num_classes))}
    wrong = {records[i].line: misfits[target] for i, target in enumerate(targets) if target in misfits}
    if wrong:
        texts = dict(numbered_lines(text))
        faults = sorted([*faults, *(_InvalidLine(line, texts[line], fault) for line, fault in wrong.items())])
    if faults:
        raise ListFileError(_describe(list_file, layout or kind, separator, faults))
    if not records:
        raise EmptyListError(f"{list_file} has no line after its header")
    return records, kind


def has_header(list_file: str | os.PathLike) -> bool:
    """Return whether the first line of a list names its columns, as in lists of segments."""
    _, first = next(numbered_lines(_read_list_text(Path(list_file))))
    layout = _layout(list_file, first, None)
    return layout is not None and layout.has_header


def _layout(list_file: str | os.PathLike, first_line: str, segment_unit: Unit | None) -> Layout | None:
    try:
        return find_layout(first_line, segment_unit)
    except LineError as error:
        raise ListFileError(f"{list_file}, line 1: {error}") from error


def _parse(text: str, kind: Kind, form: LineForm) -> tuple[RecordTable, list[_InvalidLine]]:
    """Parse a list, once per process: every mode reads the training list to count its classes."""
    key = hashlib.sha256(text.encode()).digest(), kind, form
    if key not in _parsed:
        if len(_parsed) == MAX_REMEMBERED:
            del _parsed[next(iter(_parsed))]
        _parsed[key] = _parse_lines(text, kind, form)
    return _parsed[key]


def _parse_lines(text: str, kind: Kind, form: LineForm) -> tuple[RecordTable, list[_InvalidLine]]:
    lines = islice(numbered_lines(text), 1 if form.layout and form.layout.has_header else 0, None)
    faults: list[_InvalidLine] = []
    table = RecordTable(form.root, folders=kind != "video", task=form.task, unit=form.layout and form.layout.unit)
    columns = form.layout.columns if form.layout else ()
    plain, below_root = plain_line(kind, form.separator, form.task, columns), form._replace(root="")
    while batch := list(islice(lines, PARSED_AT_ONCE)):
        if append_plain(table, batch, plain):
            continue
        for number, line in batch:
            try:
                if not append_plain(table, [(number, line)], plain):
                    table.extend_records([parse_line(line, kind, number, below_root)])
            except LineError as error:
                faults.append(_InvalidLine(number, line, str(error)))
    return table, faults


def parse_line(line: str, kind: Kind, number: int, form: LineForm) -> Record:
    """Parse one line of a list; raise `LineError` if it is invalid."""
    if form.layout:
        return _parse_segment(split_columns(line, form.separator), form.layout, number, form)
    return _PARSERS[kind](split_with_spaces(line, form.separator), number, form)


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
    names = (path + case for suffix in VIDEO_SUFFIXES for case in (suffix, suffix.upper()))
    return next((name for name in names if os.path.isfile(name)), path)


def find_absent(records: Sequence[Record]) -> list[tuple[Record, str]]:
    """Check that the file or folder of each record exists, without opening it; return those that fail, and why."""
    frames = [isinstance(record, FrameFolderRecord) and not is_single_image(record) for record in records]
    faults = [(record, path_fault(record.path, folder)) for record, folder in zip(records, frames, strict=True)]
    return [(record, fault) for record, fault in faults if fault]


def path_fault(path: str, folder: bool) -> str:
    """Say why a path is no folder, or no file with content; empty if it is."""
    try:
        status = os.stat(path if folder else resolve_video_path(path))
    except (OSError, ValueError):
        return "does not exist"
    if folder != stat.S_ISDIR(status.st_mode):
        return "is a file, not a folder of frames" if folder else "is a folder, not a file"
    if folder or (stat.S_ISREG(status.st_mode) and status.st_size):
        return ""
    return "is empty" if stat.S_ISREG(status.st_mode) else "is no regular file"


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


def recognise_kind(lines: Sequence[str], form: LineForm, look: Callable[[str], Kind | None]) -> Kind:
    """Detect the kind by majority vote, so that a few invalid lines are reported as errors of that kind.

    Args:
        lines: Non-blank lines of the list.
        form: How they are read.
        look: Returns the kind of a path on disk. Called if two or more numbers follow the path, because the line is
            then ambiguous: frame folders may be named `v_a.avi`, and lines of videos may have ignored columns.
    """
    votes: Counter[Kind] = Counter({"frames": 0, "image": 0, "video": 0})
    unsure: dict[Kind, list[str]] = {}
    kind: Kind
    for line in evenly_spread(lines, RECOGNISED_FROM):
        spaced = split_with_spaces(line, form.separator)
        columns = stripped(spaced)
        numbers, number = 0, label_form(form.task)
        while numbers < len(columns) - 1 and number.fullmatch(columns[-1 - numbers]):
            numbers, number = numbers + 1, INTEGER
        if any(column.lower().endswith(VIDEO_SUFFIXES) for column in columns):
            kind = "video"
        elif any(is_image_path(column) for column in columns):
            kind = "image"
        else:
            kind = "frames" if numbers >= 2 else "video"
        if numbers >= 2:
            unsure.setdefault(kind, []).append(join_path(spaced[: len(columns) - numbers], form.separator))
        else:
            votes[kind] += 1
    for kind, paths in unsure.items():
        seen: Counter[Kind] = Counter(look(path) or kind for path in evenly_spread(paths, MAX_LOOKUPS))
        votes[seen.most_common(1)[0][0]] += len(paths)
    return votes.most_common(1)[0][0]


def _parse_video(spaced: list[str], line: int, form: LineForm) -> VideoRecord:
    """Parse `path label [ignored ...]`; the path ends at a video suffix, or else is the first column."""
    columns = stripped(spaced)
    end = _end_of_path(columns, form, lambda column: column.lower().endswith(VIDEO_SUFFIXES))
    unlabelled = end == len(columns) - 1
    if end is None or (unlabelled and not may_be_empty(form.task)):
        if len(columns) < 2 and not may_be_empty(form.task):
            raise LineError("there is no label")
        end = 0 if len(columns) < 2 or label_form(form.task).fullmatch(columns[1]) else len(columns) - 2
    return VideoRecord(_join(spaced[: end + 1], form), _label(columns[end + 1 :], form), line)


def _parse_segment(columns: list[str], layout: Layout, line: int, form: LineForm) -> Record:
    """Parse the columns of a list of segments."""
    if form.separator == JOINT and form.task != "classification" and layout.columns[-1] == "label":
        last = len(layout.columns) - 1
        columns = [*columns[:last], JOINT.join(columns[last:])]
    cells = layout.cells(columns)
    path, segment = _join([cells["path"]], form), layout.segment(cells)
    label = parse_label(cells["label"], form.task)
    if not layout.folders:
        return VideoRecord(path, label, line, segment)
    total = parse_integer(cells["total_frames"], "total_frames")
    if segment and segment.end > total:
        raise LineError(f"the segment ends at frame {segment.end:g}, but the folder has {total}")
    return FrameFolderRecord(path, total, label, line, segment)


def _parse_frames(spaced: list[str], line: int, form: LineForm) -> FrameFolderRecord:
    """Parse `folder total_frames [ignored ...] label`."""
    columns = stripped(spaced)
    if len(columns) < 3 - may_be_empty(form.task):
        raise LineError(f"there are fewer than {'two' if may_be_empty(form.task) else 'three'} columns")
    if form.task == "classification" and len(columns) > 3 and all(INTEGER.fullmatch(text) for text in columns[1:]):
        raise LineError("it is not clear where the folder's name ends and the number of frames begins; quote the name")
    unlabelled = may_be_empty(form.task) and not INTEGER.fullmatch(columns[-2])
    place = 1 if INTEGER.fullmatch(columns[1]) else len(columns) - (1 if unlabelled else 2)
    total = parse_integer(columns[place], "total_frames")
    if total < 1:
        raise LineError(f"total_frames is {total}; a folder without frames cannot be used")
    labels = columns[-1:] if form.task == "classification" else columns[place + 1 :]
    return FrameFolderRecord(_join(spaced[:place], form), total, _label(labels, form), line)


def _parse_image(spaced: list[str], line: int, form: LineForm) -> FrameFolderRecord:
    """Parse `path label` or, for folders of frames and for images, `path total_frames label`."""
    end = _end_of_path(stripped(spaced), form, is_image_path)
    if end is not None:
        spaced = [form.separator.join(spaced[: end + 1]), *spaced[end + 1 :]]
    if len(spaced) == 2 or (len(spaced) == 1 and may_be_empty(form.task)):
        return FrameFolderRecord(_join(spaced[:1], form), 1, _label(stripped(spaced[1:]), form), line)
    return _parse_frames(spaced, line, form)


_PARSERS: dict[str, Callable[[list[str], int, LineForm], Record]] = {
    "video": _parse_video,
    "frames": _parse_frames,
    "image": _parse_image,
}


def _end_of_path(columns: list[str], form: LineForm, has_suffix: Callable[[str], bool]) -> int | None:
    """Find the column in which the path ends (it may contain separators); None if no column has a suffix."""
    end = next((i for i, column in enumerate(columns) if has_suffix(column)), None)
    if end and form.separator != " " and INTEGER.fullmatch(columns[0]):
        raise LineError(
            f"{columns[0]} comes before the path; omit row numbers (pandas: index=False), and quote a path "
            "that contains the separator"
        )
    return end


def _label(columns: list[str], form: LineForm) -> Target:
    """Parse the first of the columns that follow the path; further ones are ignored unless they may be labels too."""
    if form.task == "classification":
        return parse_label(columns[0])
    if form.separator == JOINT:
        return parse_label(JOINT.join(columns), form.task)
    label, *more = columns or [""]
    if more and label_form("regression").fullmatch(more[0]):
        raise LineError(f'"{more[0]}" follows the label; join several labels, as in {label}{JOINT}{more[0]}')
    return parse_label(label, form.task)


def _join(columns: Sequence[str], form: LineForm) -> str:
    path = join_path(columns, form.separator)
    if not path:
        raise LineError("the path is empty")
    return os.path.join(form.root, path)


def _describe(
    list_file: str | os.PathLike, form: Kind | Layout, separator: str, faults: Sequence[_InvalidLine]
) -> str:
    """Write the message of a `ListFileError`."""
    columns = separator.join(form.columns) if isinstance(form, Layout) else FORMS[form]
    shown = [f'  line {fault.number}: {fault.reason}: "{fault.text[:200]}"' for fault in faults[:MAX_REPORTED]]
    if len(faults) > MAX_REPORTED:
        shown.append(f"  and {len(faults) - MAX_REPORTED} more")
    remedy = (
        f"Each line should be `{columns}` with {separator_words(separator)} between the columns (training and "
        "tools.check_data take others: --split)."
    )
    if faults[0].number == 1 and not any(character.isdigit() for character in faults[0].text):
        remedy += " Line 1 looks like a header, which only lists of segments have; remove it."
    return "\n".join([f"{list_file}: {len(faults)} invalid line(s)", *shown, remedy])
