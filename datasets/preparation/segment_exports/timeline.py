"""This project's own timelines: the JSON or the list that `run_inference.py --segments` writes."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.preparation.media_index import SourceError
from datasets.preparation.segment_exports.stretches import Stretch, segment_of
from datasets.preparation.source_files import json_of, text_of
from datasets.segments import TIMES


def read(file: Path) -> Iterator[Stretch]:
    """Yield the labelled stretches of a timeline."""
    rows = _rows_of_json(file) if file.suffix == ".json" else _rows_of_list(file)
    for place, video, unit, row in rows:
        try:
            label, start, end = row["name"], row["start"], row["end"]
        except KeyError as error:
            raise SourceError(f"{place} has no {error.args[0]}; it should be a file of --segments") from error
        yield Stretch(video, str(label), segment_of(start, end, place, unit), place)


def _rows_of_json(file: Path) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    for number, video in enumerate(json_of(file, list), start=1):
        if not isinstance(video, dict) or "path" not in video:
            raise SourceError(f"{file}, entry {number} names no path; it should be a file of --segments")
        path, unit = video["path"], video.get("unit", "seconds")
        for place, row in enumerate(video.get("segments", ()), start=1):
            yield f"{file}, {path}, segment {place}", path, unit, row


def _rows_of_list(file: Path) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    rows = csv.DictReader(io.StringIO(text_of(file), newline=""))
    unit = "seconds" if "start" in (rows.fieldnames or ()) else "frames"
    first, last = TIMES[unit]
    for row in rows:
        place = f"{file}, line {rows.line_num}"
        times = {"start": row.get(first), "end": row.get(last)}
        yield place, row.get("path", ""), unit, {key: value for key, value in row.items() if value is not None} | times
