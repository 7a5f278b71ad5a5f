"""Restrict AVA's files to the movies or frame folders that exist."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets.detection.annotations import read_annotations, read_exclusions, read_person_boxes
from datasets.detection.label_map import read_annotation_text
from datasets.detection.lists import (
    DetectionListSettings,
    find_annotations,
    find_exclusions,
    find_file,
    find_label_map,
    locate_videos,
    split_of,
)
from datasets.preparation.media_index import SourceError
from datasets.sampling import Mode

PERSON_BOXES = {
    "val": ("ava_val_predicted_boxes.csv", "ava_detection_val_boxes_and_labels.csv", "val_predicted_boxes.csv"),
    "test": ("test_predicted_boxes.csv",),
}
"""File names of detected persons in order of preference; the first ones of the validation are SlowFast's."""
SPLITS: dict[str, Mode] = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class AvaLists:
    """Files to write.

    Attributes:
        texts: Contents of each file by name.
        root: Folder of the movies or frame folders.
        videos: Existing videos of each split.
        missing: One line per missing video.
        notes: Notes and warnings to print.
    """

    texts: dict[str, str]
    root: Path
    videos: dict[str, list[str]]
    missing: list[str]
    notes: list[str]


def read_ava(root: Path, annotations: Path, person_boxes: str = "") -> AvaLists:
    """Read AVA's files, or files in the same format, and keep the rows of the videos in `root`.

    Args:
        root: Folder of the movies or frame folders, or its parent folder.
        annotations: Folder of the dataset's files.
        person_boxes: File of detected persons; "": found in `annotations` if it exists. A test split, which is
            optional, may have its own there.

    Raises:
        SourceError: No video exists.
        FileNotFoundError, AnnotationError: A file is missing or has faulty lines.
    """
    settings = DetectionListSettings(data_path=str(annotations))
    label_map = find_label_map(settings)
    files = {
        split: find_annotations(mode, settings) for split, mode in SPLITS.items() if split_of(mode, settings) == mode
    }
    first_lines: dict[str, dict[str, int]] = {}
    for split, file in files.items():
        lines = first_lines[split] = {}
        for (video, _), persons in read_annotations(file, label_map).items():
            lines.setdefault(video, persons.line)
    exclusions = [second for file in find_exclusions(settings) for second in read_exclusions(file)]
    names = {video for lines in first_lines.values() for video in lines}
    folder, there = _folder_of(root, names)
    if not there:
        raise SourceError(
            f"none of the {len(names)} videos of {annotations} exists in {root} or in one of its folders, as a folder "
            f"of frames or as a movie; the first one is {min(names)}"
        )
    texts = {"label_map.pbtxt": read_annotation_text(label_map.path, "")}
    texts["exclusions.csv"] = "".join(f"{video},{second:04}\n" for video, second in exclusions)
    for split, file in files.items():
        texts[f"{split}.csv"] = _rows_of(file, there)
    videos = {split: [video for video in lines if video in there] for split, lines in first_lines.items()}
    notes = []
    for split in [split for split in PERSON_BOXES if split in files]:
        try:
            file = _find_persons(split, person_boxes, settings)
        except FileNotFoundError:
            notes.append(
                f"there is no {' or '.join(PERSON_BOXES[split])} in {annotations}: give the detected persons with "
                "--person_boxes, or evaluate with --eval_boxes ground_truth"
            )
        else:
            texts[f"{split}_predicted_boxes.csv"] = _rows_of(file, set(videos[split]))
    missing = [
        f"{split}: {video} ({files[split]}, line {line})"
        for split, lines in first_lines.items()
        for video, line in lines.items()
        if video not in there
    ]
    for split, of_split in videos.items():
        if not of_split:
            notes.append(f"warning: no video of {files[split]} exists; {split}.csv is empty")
    return AvaLists(texts, folder, videos, missing, notes)


def _folder_of(root: Path, names: Iterable[str]) -> tuple[Path, set[str]]:
    """Return the folder with most of the videos, `root` or one in it, and the videos it contains."""
    if not root.is_dir():
        raise SourceError(f"{root} is not a folder; it should contain the movies or folders of frames")
    inside = sorted(Path(entry.path) for entry in os.scandir(root) if entry.is_dir() and entry.name not in names)
    found = [
        (folder, {name for name, path in locate_videos(str(folder), names).items() if os.path.exists(path)})
        for folder in (root, *inside)
    ]
    return max(found, key=lambda place: len(place[1]))


def _find_persons(split: str, given: str, settings: DetectionListSettings) -> str:
    """Find and check the detected persons of a split: those given, unless the test split has its own.

    Raises:
        FileNotFoundError, AnnotationError: The file is missing or has faulty lines.
    """
    own = split == "test" and (Path(settings.data_path) / PERSON_BOXES[split][0]).is_file()
    file = find_file("" if own else given, PERSON_BOXES[split], settings, "person_boxes")
    read_person_boxes(file, 0)
    return file


def _rows_of(file: str, videos: set[str]) -> str:
    """Return the lines of a file that belong to the given videos."""
    lines = read_annotation_text(file, "").splitlines()
    return "".join(f"{line}\n" for line in lines if line.split(",", 1)[0].strip().strip('"') in videos)
