"""Find and read the files of a detection dataset, and make the records of each mode."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.flag_types import fraction, frame_template, non_negative_int, positive, positive_int
from common.settings import option
from datasets.annotations import VIDEO_SUFFIXES
from datasets.detection.annotations import (
    Keyframe,
    Persons,
    Second,
    read_annotations,
    read_exclusions,
    read_person_boxes,
)
from datasets.detection.label_map import AnnotationError, LabelMap, read_label_map
from datasets.sampling import Mode

logger = logging.getLogger(__name__)

ANNOTATIONS = {
    "train": ("ava_train_v2.2.csv", "train.csv"),
    "validation": ("ava_val_v2.2.csv", "val.csv"),
    "test": ("test.csv",),
}
PERSON_BOXES = {
    "validation": ("ava_val_predicted_boxes.csv", "val_predicted_boxes.csv"),
    "test": ("test_predicted_boxes.csv",),
}
LABEL_MAPS = ("ava_action_list_v2.2_for_activitynet_2019.pbtxt", "ava_action_list_v2.2.pbtxt", "label_map.pbtxt")
EXCLUSIONS = (
    "ava_train_excluded_timestamps_v2.2.csv",
    "ava_val_excluded_timestamps_v2.2.csv",
    "exclusions.csv",
)
FIRST_SECOND_OF_FOLDERS = 900
"""Second of AVA's movies at which the published frame folders begin."""


@dataclass(frozen=True)
class DetectionListSettings:
    """Settings of annotations, boxes and videos."""

    data_path: str = option("", "folder with the following files, under AVA's names or these", metavar="DIR")
    train_csv: str = option("", "annotations to use instead of train.csv", metavar="FILE")
    val_csv: str = option("", "annotations to use instead of val.csv", metavar="FILE")
    test_csv: str = option(
        "", "annotations to use instead of test.csv (default: those of the validation)", metavar="FILE"
    )
    label_map: str = option("", "names and ids of the classes, to use instead of label_map.pbtxt", metavar="FILE")
    exclusions: tuple[str, ...] = option(
        (), "seconds to leave out, to use instead of exclusions.csv, which may be missing", nargs="+", metavar="FILE"
    )
    person_boxes: str = option(
        "", "detected persons, to use instead of val_predicted_boxes.csv and test_predicted_boxes.csv", metavar="FILE"
    )
    box_threshold: float = option(0.8, "minimum score of detected persons", fraction)
    eval_boxes: str = option(
        "predicted",
        "boxes to evaluate: predicted, or ground_truth for an upper bound, which needs no --person_boxes",
        choices=("predicted", "ground_truth"),
    )
    val_every_seconds: int = option(4, "validate on one of every N seconds of a video during training", positive_int)
    data_root: str = option("", "folder with the movies or frame folders, named like the videos", metavar="DIR")
    filename_tmpl: str | None = option(
        None, "template of the frames' file names, such as img_{:05}.jpg (default: detected)", frame_template
    )
    fps: float = option(30.0, "frames per second at which folders were extracted and movies are sampled", positive)
    start_second: int | None = option(
        None,
        f"second at which folders or movies begin (default: {FIRST_SECOND_OF_FOLDERS} for folders, as in AVA; 0 for "
        "movies)",
        non_negative_int,
        metavar="S",
    )


@dataclass(frozen=True)
class Keyframes:
    """The records of a mode and the files they come from.

    Attributes:
        annotation_file: Path of the annotations.
        person_file: Path of the detected persons; "" if the boxes of the ground truth are used.
        label_map: Classes.
        excluded: Seconds that are left out.
        records: One record per second in the order of the annotations; seconds without annotations follow at the end
            of their video.
    """

    annotation_file: str
    person_file: str
    label_map: LabelMap
    excluded: frozenset[Second]
    records: list[Keyframe]


def find_file(given: str, names: Sequence[str], settings: DetectionListSettings, flag: str) -> str:
    """Return the file given by a flag, or else the first of `names` in --data_path.

    Raises:
        FileNotFoundError: There is none.
    """
    if given:
        return given
    if settings.data_path:
        for name in names:
            if (Path(settings.data_path) / name).is_file():
                return str(Path(settings.data_path) / name)
    folder = f"in --data_path {settings.data_path}" if settings.data_path else "(--data_path is not set)"
    raise FileNotFoundError(f"there is no {' or '.join(names)} {folder}; give the file with --{flag} FILE")


def read_keyframes(mode: Mode, settings: DetectionListSettings) -> Keyframes:
    """Read the files of a mode.

    Training and `--eval_boxes ground_truth` use the annotated boxes. An evaluation of predicted boxes has a record for
    every second with annotations or detected persons, because detections without annotations are false positives.

    Raises:
        FileNotFoundError: A file or all videos are missing.
        AnnotationError: A file has faulty lines, or no second is left; in an evaluation, none with an action.
    """
    split = split_of(mode, settings)
    if split != mode:
        logger.info("no test annotations are given, so those of the validation are tested")
    label_map = find_label_map(settings)
    annotation_file = find_annotations(split, settings)
    annotated = read_annotations(annotation_file, label_map)
    first_lines: dict[str, int] = {}
    for (video, _), persons in annotated.items():
        first_lines.setdefault(video, persons.line)
    person_file, shown = "", annotated
    if mode != "train" and settings.eval_boxes == "predicted":
        person_file = find_person_boxes(split, settings)
        shown = read_person_boxes(person_file, settings.box_threshold)
        shown = {second: persons for second, persons in shown.items() if second[0] in first_lines}
        if not shown:
            raise AnnotationError(
                f"{person_file} has no box for a video of {annotation_file} that scores at least --box_threshold "
                f"{settings.box_threshold:g}; are these the boxes of other videos?"
            )
    excluded = frozenset(second for file in find_exclusions(settings) for second in read_exclusions(file))
    seconds = [second for second in {**annotated, **shown} if second not in excluded]
    if mode == "validation":
        seconds = _one_of_every(settings.val_every_seconds, seconds, annotated)
    if not seconds:
        raise AnnotationError(f"the exclusions leave out all seconds of {annotation_file}")
    if mode != "train":
        require_actions((annotated[second] for second in seconds if second in annotated), annotation_file, label_map)
    order = {video: place for place, video in enumerate(first_lines)}
    seconds.sort(key=lambda second: order[second[0]])
    paths = find_videos(first_lines, settings.data_root, annotation_file)
    records = [
        make_keyframe(paths[second[0]], first_lines[second[0]], second, annotated.get(second), shown.get(second))
        for second in seconds
    ]
    return Keyframes(annotation_file, person_file, label_map, excluded, records)


def require_actions(evaluated: Iterable[Persons], annotation_file: str, label_map: LabelMap) -> None:
    """Raise an AnnotationError unless an evaluated second has an action, without which there is no mAP."""
    if not any(any(persons.labels) for persons in evaluated):
        raise AnnotationError(
            f"{annotation_file}: no second to evaluate has an action of {label_map.path}; annotate more seconds, or "
            "leave out fewer (--exclusions, --val_every_seconds)"
        )


def split_of(mode: Mode, settings: DetectionListSettings) -> Mode:
    """Return the split that a mode reads; without test annotations, a test reads those of the validation."""
    own = settings.test_csv or (settings.data_path and (Path(settings.data_path) / ANNOTATIONS["test"][0]).is_file())
    return "validation" if mode == "test" and not own else mode


def find_annotations(split: Mode, settings: DetectionListSettings) -> str:
    """Find the annotations of a split; errors as in `find_file`."""
    given = {"train": settings.train_csv, "validation": settings.val_csv, "test": settings.test_csv}[split]
    return find_file(given, ANNOTATIONS[split], settings, "val_csv" if split == "validation" else f"{split}_csv")


def find_person_boxes(split: Mode, settings: DetectionListSettings) -> str:
    """Find the detected persons of a split; errors as `find_file`."""
    return find_file(settings.person_boxes, PERSON_BOXES[split], settings, "person_boxes")


def find_label_map(settings: DetectionListSettings) -> LabelMap:
    """Find and read the label map; errors as in `find_file` and `read_label_map`."""
    return read_label_map(find_file(settings.label_map, LABEL_MAPS, settings, "label_map"))


def find_exclusions(settings: DetectionListSettings) -> list[str]:
    """Return the given files of exclusions, or else those in --data_path, if any."""
    if settings.exclusions or not settings.data_path:
        return list(settings.exclusions)
    there = (Path(settings.data_path) / name for name in EXCLUSIONS)
    return [str(path) for path in there if path.is_file()]


def find_videos(first_lines: dict[str, int], root: str, annotation_file: str) -> dict[str, str]:
    """Find the frame folder or movie of each video in `root`; the path of a missing one has no suffix.

    Args:
        first_lines: Line of the first row of each video, for error messages.
        root: Folder of the videos, --data_root.
        annotation_file: Path of the annotations, for error messages.

    Raises:
        FileNotFoundError: No video exists.
    """
    paths = locate_videos(root, first_lines)
    missing = [video for video, path in paths.items() if not os.path.exists(path)]
    if missing:
        first = f"the first in line {first_lines[missing[0]]}: {paths[missing[0]]}"
        if len(missing) == len(paths):
            raise FileNotFoundError(
                f"{annotation_file}: none of the {len(paths)} videos exists as a frame folder or a movie, {first}; "
                "set --data_root to the folder that contains them"
            )
        logger.warning("%s: %d of %d videos are missing, %s", annotation_file, len(missing), len(paths), first)
    return paths


def locate_videos(root: str, videos: Iterable[str]) -> dict[str, str]:
    """Return the path of the frame folder or movie of each video in `root`; without a suffix if there is none."""
    movies: dict[str, dict[str, str]] = {}
    paths = {}
    for video in videos:
        path = os.path.join(root, video)
        folder, name = os.path.split(path)
        if folder not in movies:  # listed once, since each of hundreds of movies may have any suffix in any case
            movies[folder] = _movies_in(folder)
        paths[video] = path if os.path.exists(path) else path + movies[folder].get(name, "")
    return paths


def _movies_in(folder: str) -> dict[str, str]:
    """Return the suffix of each movie by the rest of its name; of several, the one that `VIDEO_SUFFIXES` prefers."""
    _, _, names = next(os.walk(folder or "."), ("", [], []))  # nothing if the folder is missing or cannot be listed
    movies = [split for split in map(os.path.splitext, sorted(names)) if split[1].lower() in VIDEO_SUFFIXES]
    return dict(sorted(movies, key=lambda movie: VIDEO_SUFFIXES.index(movie[1].lower()), reverse=True))


def start_of(path: str, start_second: int | None) -> int:
    """Return the second at which a folder or movie begins: `start_second`, or the default if that is None."""
    if start_second is None:
        return FIRST_SECOND_OF_FOLDERS if os.path.isdir(path) else 0
    return start_second


def make_keyframe(path: str, line: int, second: Second, annotated: Persons | None, shown: Persons | None) -> Keyframe:
    """Make a record of the annotated persons and those to classify; None means that there are none."""
    truth, persons = annotated or Persons(line), shown or Persons(line)
    target = {"boxes": truth.box_array(), "labels": truth.labels}
    boxes = target["boxes"] if shown is annotated else persons.box_array()
    return Keyframe(path, truth.line, *second, target, boxes, np.array(persons.scores, dtype=np.float32))


def _one_of_every(step: int, seconds: list[Second], annotated: Mapping[Second, Persons]) -> list[Second]:
    """Keep one of every `step` seconds of a video: the first annotated one or, without any, the first with boxes.

    They are counted from the first annotated second of the video, so a person detector that ran on other seconds does
    not decide which annotated ones are used. If every second is annotated, every `step`th remains.
    """
    firsts: dict[str, int] = {}
    kept: dict[tuple[str, int], Second] = {}
    for video, second in sorted(seconds, key=lambda second: (second not in annotated, second)):
        first = firsts.setdefault(video, second)
        kept.setdefault((video, (second - first) // step), (video, second))
    chosen = set(kept.values())
    return [second for second in seconds if second in chosen]
