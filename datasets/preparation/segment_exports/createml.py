"""Create ML, action classifier: a CSV of videos, labels, and start and end in seconds, which may be left out."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from datasets.preparation.media_index import SourceError
from datasets.preparation.segment_exports.stretches import Stretch, segment_of
from datasets.preparation.source_files import text_of

COLUMNS = {
    "video": ("videopath", "video", "file", "filename", "path"),
    "label": ("label", "action", "annotation"),
    "start": ("starttime", "start", "start_time"),
    "end": ("endtime", "end", "end_time"),
}
"""Names of columns in lower case; a project chooses its own, and these are the default and common ones."""


def read(file: Path) -> Iterator[Stretch]:
    """Yield the labelled stretches of an annotation file."""
    rows = csv.DictReader(io.StringIO(text_of(file), newline=""))
    header = {name.strip().lower(): name for name in rows.fieldnames or ()}
    named = {what: next((header[name] for name in names if name in header), "") for what, names in COLUMNS.items()}
    if not named["video"] or not named["label"]:
        raise SourceError(f"{file}, line 1: a column of videos ({COLUMNS['video'][0]}) or label is missing")
    others = [name for name in header if name.startswith(("start", "begin", "end", "stop"))]
    if bool(named["start"]) != bool(named["end"]) or (others and not named["start"]):
        raise SourceError(
            f"{file}, line 1: columns of times are {', '.join(others)}; name them start and end, or leave both out"
        )
    for row in rows:
        yield _stretch(row, named, f"{file}, line {rows.line_num}")


def _stretch(row: Mapping[str, str | None], named: Mapping[str, str], place: str) -> Stretch:
    cells = {what: (row.get(name) or "").strip() if name else "" for what, name in named.items()}
    for what in ("video", "label"):
        if not cells[what]:
            raise SourceError(f"{place}: the {what} is empty")
    if not cells["start"] and not cells["end"]:
        return Stretch(cells["video"], cells["label"], None, place)
    if not cells["end"]:
        raise SourceError(f"{place}: there is a start, but no end")
    return Stretch(cells["video"], cells["label"], segment_of(cells["start"] or 0, cells["end"], place), place)
