"""Check annotations and boxes for action detection against each other and against the movies or frame folders."""

import os
from collections import defaultdict
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from datasets.detection import boxes as box
from datasets.detection.annotations import Persons, Second, read_annotations, read_exclusions, read_person_boxes
from datasets.detection.label_map import LabelMap
from datasets.detection.lists import (
    FIRST_SECOND_OF_FOLDERS,
    DetectionListSettings,
    find_annotations,
    find_exclusions,
    find_label_map,
    find_person_boxes,
    locate_videos,
    require_actions,
    split_of,
    start_of,
)
from datasets.frame_names import describe_gap
from datasets.preparation.worker_pool import run_jobs
from datasets.readers import UnreadableVideoError
from datasets.readers.timed import TimedVideo, find_frames
from datasets.sampling import Mode

AVA_SECONDS = 901
"""Length of AVA's frame folders, from second 900 to 1801."""
FRAMES_OFF, SHARE_OFF = 2, 0.1
"""Tolerated difference from that length in frames, and the fraction above which it is a fault."""
LEAST_FOUND = 0.5
"""Fraction of annotated persons below which the detected boxes seem to belong to other videos."""


@dataclass
class Findings:
    """Result of a check: faults, which stop a run or make it lose seconds, and notes."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, read: Callable, *arguments) -> Any:
        """Call a function; if it refuses a file, record a fault and return None."""
        try:
            return read(*arguments)
        except (ValueError, OSError) as error:
            if str(error) not in self.faults:
                self.faults.append(str(error))
            return None


@dataclass(frozen=True)
class Annotations:
    """Annotations of a split and their file."""

    file: str
    seconds: dict[Second, Persons]

    def without(self, excluded: Container[Second]) -> "Annotations":
        """Return the annotations of the other seconds."""
        return Annotations(self.file, {key: value for key, value in self.seconds.items() if key not in excluded})

    @cached_property
    def first_lines(self) -> dict[str, int]:
        """Line of the first row of each video."""
        lines: dict[str, int] = {}
        for (video, _), persons in self.seconds.items():
            lines.setdefault(video, persons.line)
        return lines

    def place(self, video: str) -> str:
        """Return the file and the line of a video's first row, for messages."""
        return f"{self.file}, line {self.first_lines[video]}"


@dataclass(frozen=True)
class VideoJob:
    """A movie or frame folder to check, with its annotated seconds in ascending order."""

    path: str
    filename_tmpl: str | None
    fps: float
    start: int
    seconds: tuple[int, ...]

    def key_frames(self) -> list[int]:
        """Return the frame number of each second."""
        return [round((second - self.start) * self.fps) for second in self.seconds]


def check_annotations(settings: DetectionListSettings, findings: Findings) -> dict[Mode, Annotations]:
    """Read and compare all files of a dataset; return the annotations that could be read, without excluded seconds."""
    label_map = findings.attempt(find_label_map, settings)
    excluded = {
        second for file in find_exclusions(settings) for second in findings.attempt(read_exclusions, file) or ()
    }
    if label_map is None:
        return {}
    splits: dict[Mode, Annotations] = {}
    for split in ("train", "validation", "test"):
        try:
            file = find_annotations(split, settings) if split_of(split, settings) == split else ""
        except FileNotFoundError:  # a split may be missing
            continue
        seconds = findings.attempt(read_annotations, file, label_map) if file else None
        if seconds:
            splits[split] = Annotations(file, seconds)
    if not splits and not findings.faults:
        findings.attempt(find_annotations, "train", settings)
    _compare_classes(splits, label_map, findings)
    splits = {split: annotations.without(excluded) for split, annotations in splits.items()}
    for split, annotations in splits.items():
        _note_repeated_rows(annotations, findings)
        if split != "train":
            findings.attempt(require_actions, annotations.seconds.values(), annotations.file, label_map)
            _check_detected(split, annotations, settings, findings)
            if "train" in splits:
                _note_shared_videos(annotations, splits["train"], findings)
    return splits


def check_videos(
    splits: dict[Mode, Annotations],
    settings: DetectionListSettings,
    findings: Findings,
    *,
    workers: int = 0,
    time_limit: float = 120.0,
) -> int:
    """Check the movie or frame folder of every video: length, gaps, and the frames at the annotated seconds.

    Returns:
        Number of existing movies and folders.
    """
    jobs: dict[VideoJob, tuple[Annotations, str]] = {}
    for annotations in splits.values():
        seconds: dict[str, list[int]] = defaultdict(list)
        for video, second in annotations.seconds:
            seconds[video].append(second)
        for video, path in locate_videos(settings.data_root, seconds).items():
            if os.path.exists(path):
                start = start_of(path, settings.start_second)
                job = VideoJob(path, settings.filename_tmpl, settings.fps, start, tuple(sorted(seconds[video])))
                jobs[job] = annotations, video
            else:
                findings.faults.append(
                    f"{annotations.place(video)}: {path} exists neither as a folder of frames nor as a movie; "
                    "see --data_root, or remove the video (tools.make_lists ava)"
                )
    faults_of: dict[VideoJob, list[str]] = {}
    for outcome in run_jobs(look_at_video, jobs, workers=workers, time_limit=time_limit):
        job = outcome.job
        annotations, video = jobs[job]
        frames, faults = outcome.value or (0, [f"{job.path}: {outcome.error}"])
        faults_of[job] = [f"{annotations.place(video)}: {fault}" for fault in faults]
        if frames:
            faults_of[job] += _length_faults(job, video, frames, annotations, findings)
    findings.faults += [fault for job in jobs for fault in faults_of[job]]
    return len(jobs)


def look_at_video(job: VideoJob) -> tuple[int, list[str]]:
    """Count the frames of a movie or frame folder; of a movie, read those at the first and last annotated second.

    Returns:
        Number of frames (0 if they cannot be read) and faults.
    """
    try:
        if os.path.isdir(job.path):
            template, run = find_frames(job.path, job.filename_tmpl)
            gap = "" if run.is_whole else describe_gap(job.path, template)
            return run.last - run.first + 1, [f"{job.path}: {gap}; extract its frames again"] if gap else []
        reader = TimedVideo(job.path, job.fps)
        keys = [key for key in job.key_frames() if 0 <= key < len(reader)]
        for key in {*keys[:1], *keys[-1:]}:
            reader.read([key])
        return len(reader), []
    except UnreadableVideoError as error:
        return 0, [str(error)]


def _length_faults(job: VideoJob, video: str, frames: int, annotations: Annotations, findings: Findings) -> list[str]:
    """Compare the number of frames with the annotated seconds, and with the 15 minutes of AVA's folders."""
    faults = []
    beyond = [second for second, key in zip(job.seconds, job.key_frames(), strict=True) if not 0 <= key < frames]
    if beyond:
        line = annotations.seconds[video, beyond[0]].line
        faults.append(
            f"{annotations.file}, line {line}: second {beyond[0]} of {job.path} has no frame: it has {frames} frames "
            f"at {job.fps:g} per second from second {job.start} on ({len(beyond)} such seconds; --start_second, --fps)"
        )
    if job.start == FIRST_SECOND_OF_FOLDERS:
        expected = round(AVA_SECONDS * job.fps)
        place = f"{annotations.place(video)}: {job.path} has {frames} frames"
        if abs(frames - expected) > SHARE_OFF * expected:
            faults.append(
                f"{place}, but 15 minutes at {job.fps:g} per second are {expected}: its seconds are shifted; extract "
                "them again, or set --fps and --start_second"
            )
        elif abs(frames - expected) > FRAMES_OFF:
            findings.notes.append(f"{place}, but 15 minutes at {job.fps:g} per second are {expected}")
    return faults


def _compare_classes(splits: dict[Mode, Annotations], label_map: LabelMap, findings: Findings) -> None:
    """Note classes without boxes in a split, and classes that are evaluated but not trained."""
    seen: dict[Mode, dict[int, int]] = {}
    for split, annotations in splits.items():
        lines = seen[split] = {}
        for persons in annotations.seconds.values():
            for class_id in {class_id for ids in persons.labels for class_id in ids}:
                lines.setdefault(class_id, persons.line)
    for class_id, name, line in zip(label_map.ids, label_map.names, label_map.lines, strict=True):
        absent = [annotations.file for split, annotations in splits.items() if class_id not in seen[split]]
        if absent:
            findings.notes.append(
                f'{label_map.path}, line {line}: class {class_id}, "{name}", has no box in {", ".join(absent)}; '
                "remove it from the label map unless that is intended"
            )
        for split, annotations in splits.items():
            if class_id in seen[split] and class_id not in seen.get("train", seen[split]):
                findings.notes.append(
                    f'{annotations.file}, line {seen[split][class_id]}: class {class_id}, "{name}", is evaluated '
                    "but has no box in training"
                )


def _note_repeated_rows(annotations: Annotations, findings: Findings) -> None:
    repeated = [
        persons.line
        for persons in annotations.seconds.values()
        if any(len(set(ids)) < len(ids) for ids in persons.labels)
    ]
    if repeated:
        findings.notes.append(
            f"{annotations.file}, line {repeated[0]}: a person in this second has the same action twice ("
            f"{len(repeated)} such seconds); remove one of the rows, or it counts twice"
        )


def _note_shared_videos(annotations: Annotations, train: Annotations, findings: Findings) -> None:
    """Note videos that are both trained and evaluated."""
    shared = [video for video in annotations.first_lines if video in train.first_lines]
    if shared:
        findings.notes.append(
            f"{annotations.place(shared[0])}: {shared[0]} is also in the training annotations "
            f"({train.place(shared[0])}); {len(shared)} such videos"
        )


def _check_detected(
    split: Mode, annotations: Annotations, settings: DetectionListSettings, findings: Findings
) -> None:
    """Compare detected persons with annotated ones."""
    try:
        file = find_person_boxes(split, settings)
    except FileNotFoundError as error:
        findings.notes.append(f"{error}, or evaluate with --eval_boxes ground_truth")
        return
    detected = findings.attempt(read_person_boxes, file, settings.box_threshold)
    if detected is None:
        return
    found = total = 0
    without = []
    for second, persons in annotations.seconds.items():
        total += len(persons.boxes)
        if second in detected:
            best = box.overlaps(persons.box_array(), detected[second].box_array()).max(axis=1)
            found += int(np.count_nonzero(best >= 0.5))
        else:
            without.append(f"{','.join(map(str, second))} ({annotations.file}, line {persons.line})")
    words = (
        f"{file}: {found} of {total} annotated persons have a box of IoU 0.5 that scores at least --box_threshold "
        f"{settings.box_threshold:g}"
    )
    if found < LEAST_FOUND * total:
        findings.faults.append(f"{words}; do these boxes belong to other videos or another frame size?")
    else:
        findings.notes.append(words)
    if without:
        findings.notes.append(
            f"{file}: {len(without)} annotated seconds have no such box, the first one is {without[0]}"
        )
