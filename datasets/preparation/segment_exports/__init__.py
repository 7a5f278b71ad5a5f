"""Segments labelled in other programs, one module for each format of an export."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from datasets.preparation.list_sources import Source
from datasets.preparation.media_index import SourceError
from datasets.preparation.segment_exports import createml, cvat, elan, fiftyone, label_studio, timeline, via
from datasets.preparation.segment_exports.stretches import Stretch, source_of

READERS: dict[str, Callable[[Path], Iterator[Stretch]]] = {
    "label_studio": label_studio.read,
    "cvat": cvat.read,
    "via": via.read,
    "elan": elan.read,
    "fiftyone": fiftyone.read,
    "createml": createml.read,
    "timeline": timeline.read,
}


def read_segments(form: str, files: Sequence[Path], names: Sequence[str] = ()) -> Source:
    """Read exports of a program into a `Source` with a training split.

    Args:
        form: One of `READERS`.
        files: Exports.
        names: Names of the classes, in the order of their labels; empty for those that occur, sorted.

    Raises:
        SourceError: A file is not such an export, or a label is not among the names.
    """
    return source_of([stretch for file in files for stretch in _stretches(form, file)], files, names)


def _stretches(form: str, file: Path) -> Iterator[Stretch]:
    """Yield the stretches of an export; name the place if it is not built as the program builds it."""
    place = "its beginning"
    try:
        for stretch in READERS[form](file):
            if not isinstance(stretch.video, str) or not isinstance(stretch.label, str):
                raise SourceError(f"{stretch.place}: video and label should be strings")
            place = stretch.place
            yield stretch
    except SourceError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise SourceError(f"{file} is not built as an export of {form}, at or after {place}: {error}") from error
