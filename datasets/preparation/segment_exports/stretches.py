"""Labelled stretches of videos, as all formats have them, and the source that they form."""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from datasets.preparation.list_sources import Entry, Source
from datasets.preparation.media_index import SourceError
from datasets.preparation.source_files import text_of
from datasets.segments import Segment

UPLOAD = re.compile(r"/data/upload/(?:[^/]+/)*[0-9a-f]{8}-([^/]+)$")
"""Address of a file that was uploaded to Label Studio, which writes eight digits before its name."""


@dataclass(frozen=True)
class Stretch:
    """A labelled stretch of a video: the video as the export names it, None for all of it, and its place there."""

    video: str
    label: str
    segment: Segment | None
    place: str


def source_of(stretches: Sequence[Stretch], files: Sequence[Path], names: Sequence[str]) -> Source:
    """Number the classes and name the videos so that they can be found."""
    if not stretches:
        raise SourceError(f"{', '.join(map(str, files))}: there is no labelled segment")
    label_names = list(names) or sorted({stretch.label for stretch in stretches})
    label_of = {name: label for label, name in enumerate(label_names)}
    entries = []
    for stretch in stretches:
        if stretch.label not in label_of:
            raise SourceError(f'{stretch.place}: label "{stretch.label}" is not in the file of --labels')
        entries.append(Entry(possible_names(stretch.video), label_of[stretch.label], stretch.place, stretch.segment))
    return Source({"train": entries}, label_names)


def possible_names(video: str) -> tuple[str, ...]:
    """Return the names that a file may have, from the path or address in an export, most specific first."""
    plain = video.replace("\\", "/")
    address = urlsplit(plain)
    query = parse_qs(address.query)
    if "://" in plain or "d" in query:
        paths = [query.get("d", [unquote(address.path)])[0]]
    else:
        paths = [plain, unquote(plain)]  # in a path, # and ? are part of a name
    tails = [tail for path in paths for tail in _tails(path)]
    uploaded = UPLOAD.search(paths[-1])
    return tuple(dict.fromkeys([video, *tails, *([uploaded[1]] if uploaded else [])]))


def _tails(path: str) -> list[str]:
    """Return a path without its first folders, the longest first."""
    parts = PurePosixPath(path).parts
    return ["/".join(parts[i:]) for i in range(len(parts)) if parts[i] != "/"]


def segment_of(start: Any, end: Any, place: str, unit: Any = "seconds") -> Segment:
    """Check start and end; raise a `SourceError` that names the place if they are no stretch of a video."""
    try:
        first, last = float(start), float(end)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{place}: start and end should be numbers, not {start} and {end}") from error
    if not (0 <= first < last and math.isfinite(last)):
        raise SourceError(f"{place}: the segment ends at {end}, not after its start at {start}")
    return Segment(first, last, unit)


def xml_of(path: Path, root: str, program: str) -> ElementTree.Element:
    """Parse an XML file whose root element should have a name."""
    try:
        found = ElementTree.fromstring(text_of(path))
    except ElementTree.ParseError as error:
        raise SourceError(f"{path} is not XML: {error}") from error
    if found.tag != root:
        raise SourceError(f"{path} is not an export of {program}: it begins with <{found.tag}> instead of <{root}>")
    return found
