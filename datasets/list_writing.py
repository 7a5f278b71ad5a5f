"""Write records as the text of a list file."""

from collections.abc import Sequence
from dataclasses import replace

from datasets.annotations import FrameFolderRecord, Kind, LineForm, ListFileError, Record, parse_line, recognise_kind
from datasets.labels import format_label, task_of
from datasets.list_lines import LineError, quote
from datasets.segments import TIMES, Layout, Unit, find_layout


def format_list(records: Sequence[Record], kind: Kind) -> str:
    """Write records as the text of a list from which `read_list` reads the same records, except for their lines.

    If any record is a segment, the list has a header and commas.

    Raises:
        ListFileError: A name cannot be written in a line, for example because it has a line break or is not UTF-8, or
            segments are in seconds and in frames.
    """
    layout = _layout(records)
    separator = layout.separator if layout and layout.separator else " "
    lines = [separator.join(_columns(record, segmented=layout is not None)).rstrip(" ") for record in records]
    for line, record in zip(lines, records, strict=True):
        form = LineForm(separator, task_of(record.target), layout=layout)
        if _read_back(line, kind, form, labelled=record.target != ()) != replace(record, line=1):
            raise ListFileError(f"{record.path!r} cannot be written in a list file; rename it")
    header = [",".join(layout.columns)] if layout else []
    return "".join(f"{line}\n" for line in [*header, *lines])


def _layout(records: Sequence[Record]) -> Layout | None:
    """Return the columns of a list of segments; None for one of whole videos."""
    units: set[Unit] = {record.segment.unit for record in records if record.segment}
    if not units:
        return None
    if len(units) > 1:
        raise ListFileError("the segments of a list should all be in seconds, or all in frames")
    total = ["total_frames"] if isinstance(records[0], FrameFolderRecord) else []
    return find_layout(",".join(["path", *total, *TIMES[units.pop()], "label"]))


def _columns(record: Record, *, segmented: bool) -> list[str]:
    total = [str(record.total_frames)] if isinstance(record, FrameFolderRecord) else []
    segment = record.segment
    times = [_shortest(segment.start), _shortest(segment.end)] if segment else [""] * 2 * segmented
    return [quote(record.path), *total, *times, format_label(record.target)]


def _shortest(value: float) -> str:
    """Write a number with as few digits as identify it."""
    return str(int(value)) if value == int(value) else str(value)


def _read_back(line: str, kind: Kind, form: LineForm, *, labelled: bool) -> Record | None:
    """Parse a line that `format_list` has written; None if it cannot be read."""
    if len(line.splitlines()) != 1 or not _is_text(line):
        return None
    # A frame folder without a label has the form of a video; the other lines of its list tell them apart.
    recognised = form.layout is None and (labelled or kind != "frames")
    if recognised and recognise_kind([line], form, lambda _: kind) != kind:
        return None
    try:
        return parse_line(line, kind, 1, form)
    except LineError:
        return None


def _is_text(line: str) -> bool:
    """Whether a line can be encoded as UTF-8; file names may contain arbitrary bytes."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True
