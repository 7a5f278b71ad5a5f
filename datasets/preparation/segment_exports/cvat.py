"""CVAT, XML 1.1: the tracks of "CVAT for video", and the tags of the frames of "CVAT for images".

A track lasts from its first shape that is not `outside` up to the next one that is, or to the end of the task or job.
Tags of one label in consecutive frames are a segment. Frames are counted from 0.
"""

import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from datasets.preparation.media_index import SourceError
from datasets.preparation.segment_exports.stretches import Stretch, segment_of, xml_of


def read(file: Path) -> Iterator[Stretch]:
    """Yield the labelled stretches of an export."""
    root = xml_of(file, "annotations", "CVAT")
    if root.find("meta/project") is not None:
        raise SourceError(f"{file} is the export of a project; export its tasks one by one")
    exported = "meta/job" if root.find("meta/job") is not None else "meta/task"
    if "step" in (root.findtext(f"{exported}/frame_filter") or ""):
        raise SourceError(f"{file}: the task skips frames (frame_filter), and their labels are unknown")
    video = root.findtext("meta/source") or root.findtext(f"{exported}/source") or root.findtext(f"{exported}/name")
    if not video:
        raise SourceError(f"{file} names no video in meta/source or {exported}/name")
    stop = root.findtext(f"{exported}/stop_frame")
    size = int(stop) + 1 if stop else int(root.findtext(f"{exported}/size") or 0)
    for track in root.iter("track"):
        yield from _of_track(track, video, f"{file}, track {track.get('id')}", size)
    yield from _of_tags(root, video, file)


def _of_track(track: ElementTree.Element, video: str, place: str, size: int) -> Iterator[Stretch]:
    label = track.get("label", "")
    shapes = sorted((int(shape.get("frame", 0)), shape.get("outside") == "1") for shape in track if shape.get("frame"))
    start = None
    for frame, outside in shapes:
        if outside and start is not None:
            yield Stretch(video, label, segment_of(start, frame, place, "frames"), place)
            start = None
        elif not outside and start is None:
            start = frame
    if start is not None:
        end = max(size, shapes[-1][0] + 1)
        yield Stretch(video, label, segment_of(start, end, place, "frames"), place)


def _of_tags(root: ElementTree.Element, video: str, file: Path) -> Iterator[Stretch]:
    frames: dict[str, list[int]] = defaultdict(list)
    for image in root.iter("image"):
        for tag in image.iter("tag"):
            frames[tag.get("label", "")].append(int(image.get("id", 0)))
    for label, tagged in frames.items():
        for start, end in _runs(sorted(set(tagged))):
            place = f"{file}, tag {label} of frame {start}"
            yield Stretch(video, label, segment_of(start, end, place, "frames"), place)


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of consecutive numbers: the first, and the one after the last."""
    for place, number in enumerate(numbers):
        if place == 0 or numbers[place - 1] != number - 1:
            start = number
        if place + 1 == len(numbers) or numbers[place + 1] != number + 1:
            yield start, number + 1
