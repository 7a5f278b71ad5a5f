"""Write the segments of videos as a list for training (.csv), JSON or subtitles (.srt, .vtt)."""

import csv
import html
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from common.terminal import printable
from datasets.labelled_segments import LabelledSegment
from datasets.readers import UnreadableVideoError
from inference.batch import Result

SUBTITLES = (".srt", ".vtt")


def check_segment_file(path: str, sources: Sequence[str]) -> None:
    """Check that the segments of all sources can be written to one file.

    Args:
        path: Name of the file; its suffix chooses the format.
        sources: Paths of the videos.

    Raises:
        ValueError: The suffix is unknown, or the format cannot hold these videos.
    """
    suffix = Path(path).suffix
    if suffix not in _FORMATS:
        raise ValueError(f"--segments {path}: the name should end in {', '.join(_FORMATS)}")
    if suffix in SUBTITLES and len(sources) > 1:
        raise ValueError(f"--segments {path}: subtitles belong to one video, but there are {len(sources)}; use .csv")
    if suffix in SUBTITLES and os.path.isdir(sources[0]):
        raise ValueError(
            f"--segments {path}: subtitles need seconds, but {sources[0]} is a folder of frames; use .csv"
        )
    if suffix == ".csv" and len({os.path.isdir(source) for source in sources}) > 1:
        raise ValueError(f"--segments {path}: a list has seconds for videos or frames for folders; use .json for both")
    for source in sources if suffix == ".csv" else ():
        if printable(source) != source:
            raise ValueError(
                f"{printable(source)} cannot be written in a list; rename it, or use --segments FILE.json"
            )


@contextmanager
def segment_file(path: str, sources: Sequence[str]) -> Iterator[Callable[[Result], None]]:
    """Open a file of segments and yield a function that writes a result; each is on disk before the next video.

    The function raises an `UnreadableVideoError` if the format needs seconds and the frame rate is unknown.

    Args:
        path: Name of the file.
        sources: Paths of the videos; both were checked by `check_segment_file`.
    """
    suffix = Path(path).suffix
    style = _FORMATS[suffix] if suffix != ".csv" or not os.path.isdir(sources[0]) else _LIST_OF_FOLDERS
    needs_seconds = style not in (_FORMATS[".json"], _LIST_OF_FOLDERS)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    between = ""
    with open(path, "w", encoding="utf-8") as file:
        file.write(style.head)

        def write(result: Result) -> None:
            nonlocal between
            if needs_seconds and result.curve and not result.curve.rate:
                raise UnreadableVideoError(
                    result.path, "its frame rate is unknown, so segments have no seconds; use --segments FILE.json"
                )
            file.write(between + style.body(result))
            file.flush()
            between = style.between

        try:
            yield write
        finally:
            file.write(style.tail)


def _rows(result: Result) -> str:
    """Lines of a list from which training reads the same segments."""
    return _lines((result.path, *row) for row in _columns(result))


def _rows_of_folder(result: Result) -> str:
    total = result.curve.total_frames if result.curve else 0
    return _lines((result.path, total, *row) for row in _columns(result))


def _lines(rows: Iterable[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _columns(result: Result) -> Iterator[tuple]:
    for segment, name in _named(result):
        yield _time(segment.start), _time(segment.end), segment.label, printable(name), f"{segment.confidence:.4f}"


def _object(result: Result) -> str:
    entry = {"path": result.path}
    if result.error is not None:
        entry["error"] = result.error.reason
    else:
        entry["unit"] = "seconds" if result.curve.rate else "frames"
        entry["segments"] = [segment._asdict() | {"name": name} for segment, name in _named(result)]
    return printable(json.dumps(entry, ensure_ascii=False, allow_nan=False))


def _subtitles(result: Result) -> str:
    return "".join(
        f"{number}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{_caption(segment, name)}\n\n"
        for number, (segment, name) in enumerate(_named(result), start=1)
    )


def _web_subtitles(result: Result) -> str:
    return "".join(
        f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n"
        f"{html.escape(_caption(segment, name), quote=False)}\n\n"
        for segment, name in _named(result)
    )


def _named(result: Result) -> list[tuple[LabelledSegment, str]]:
    """Return the segments of a result with the names of their classes; none after an error."""
    return [(segment, result.curve.label_names[segment.label]) for segment in result.segments or ()]


def _time(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _clock(seconds: float, point: str) -> str:
    whole, thousandths = divmod(round(1000 * seconds), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{thousandths:03}"


def _caption(segment: LabelledSegment, name: str) -> str:
    return f"{printable(name)} {100 * segment.confidence:.0f} %"


class _Format(NamedTuple):
    """The text before all results, of one result, between two and after all."""

    head: str
    body: Callable[[Result], str]
    between: str = ""
    tail: str = ""


_FORMATS = {
    ".csv": _Format("path,start,end,label,name,confidence\n", _rows),
    ".json": _Format("[\n", _object, ",\n", "\n]\n"),
    ".srt": _Format("", _subtitles),
    ".vtt": _Format("WEBVTT\n\n", _web_subtitles),
}
_LIST_OF_FOLDERS = _Format("path,total_frames,start_frame,end_frame,label,name,confidence\n", _rows_of_folder)
