"""VGG Image Annotator 3, a project in JSON: `z` of an entry of the metadata has start and end in seconds.

The label is the value of an attribute; those that are chosen from options are stored by their keys.
"""

from collections.abc import Iterator
from pathlib import Path

from datasets.preparation.media_index import SourceError
from datasets.preparation.segment_exports.stretches import Stretch, segment_of
from datasets.preparation.source_files import json_of


def read(file: Path) -> Iterator[Stretch]:
    """Yield the labelled stretches of a project."""
    project = json_of(file, dict)
    if not {"metadata", "file", "view", "attribute"} <= project.keys():
        raise SourceError(f"{file} is not a project of VIA 3: it lacks metadata, file, view or attribute")
    for key, entry in project["metadata"].items():
        place = f"{file}, metadata {key}"
        times = entry.get("z", ())
        if len(times) != 2 or entry.get("xy"):
            continue  # a region of a frame
        try:
            files = project["view"][str(entry["vid"])]["fid_list"]
            video = project["file"][str(files[0])]["fname"]
        except (KeyError, IndexError, TypeError) as error:
            raise SourceError(f"{place}: its file is not in the project") from error
        values = {identity: value for identity, value in entry.get("av", {}).items() if value not in ("", None)}
        if len(values) != 1:
            raise SourceError(f"{place} has values of {len(values)} attributes instead of 1; its label is not clear")
        identity, value = next(iter(values.items()))
        options = project["attribute"].get(identity, {}).get("options", {})
        if str(value) not in options and "," in str(value) and options:
            raise SourceError(f"{place} has several options, {value}; a segment has one label")
        yield Stretch(video, str(options.get(value, value)), segment_of(times[0], times[1], place), place)
