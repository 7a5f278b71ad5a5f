"""Label Studio: tasks with regions of TimelineLabels, in JSON or JSON-MIN.

A region has `ranges` in frames, counted from 1, both ends included. Regions of the older template, Labels on the sound
of a video, have `start` and `end` in seconds. Choices of a task are the label of the whole video; JSON-MIN does not
tell them from other texts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets.preparation.media_index import SourceError
from datasets.preparation.segment_exports.stretches import Stretch, segment_of
from datasets.preparation.source_files import json_of


def read(file: Path) -> Iterator[Stretch]:
    """Yield the labelled stretches of an export."""
    seen = set()
    for number, task in enumerate(json_of(file, list), start=1):
        place = f"{file}, task {task.get('id', number) if isinstance(task, dict) else number}"
        if not isinstance(task, dict):
            raise SourceError(f"{place} is not an object; export JSON or JSON-MIN from Label Studio")
        if (identity := task.get("id", f"number {number}")) in seen:
            raise SourceError(f"{place} has several annotations; keep one of them, so that nothing is counted twice")
        seen.add(identity)
        video = _video(task.get("data", task), place)
        for value in _values(task, place):
            yield from _stretches(value, video, place)


def _video(data: dict[str, Any], place: str) -> str:
    """Return the address of the video, whatever its variable is called."""
    for name in ("video", "video_url", "url", "audio"):
        if isinstance(data.get(name), str):
            return data[name]
    raise SourceError(f"{place} has no video, video_url, url or audio in its data")


def _values(task: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """Return the regions: those of the first annotation that was not cancelled, or all of JSON-MIN."""
    if "annotations" not in task:
        lists = [entry for entry in task.values() if isinstance(entry, list)]
        return [value for entry in lists for value in entry if isinstance(value, dict)]
    kept = [one for one in task["annotations"] if isinstance(one, dict) and not one.get("was_cancelled")]
    if len(kept) > 1:
        raise SourceError(f"{place} has {len(kept)} annotations; keep one of them, so that nothing is counted twice")
    return [region.get("value", {}) for one in kept for region in one.get("result", [])]


def _stretches(value: dict[str, Any], video: str, place: str) -> Iterator[Stretch]:
    for label in value.get("timelinelabels", ()):
        for span in value.get("ranges", ()):
            first = span.get("start", 0)
            yield Stretch(video, label, segment_of(first - 1, span.get("end"), place, "frames"), place)
    for label in value.get("labels", ()):
        yield Stretch(video, label, segment_of(value.get("start"), value.get("end"), place), place)
    for label in value.get("choices", ()):
        yield Stretch(video, label, None, place)
