"""Annotations and boxes for action detection, held against each other and against the movies or frame folders."""

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from datasets.detection import boxes as box
from datasets.detection.annotations import Persons, Second, read_annotations, read_exclusions, read_person_boxes
from datasets.detection.label_map import LabelMap
from datasets.detection.lists import (
    FIRST_SECOND_OF_FOLDERS,
    PERSON_BOXES,
    DetectionListSettings,
    find_annotations,
    find_exclusions,
    find_file,
    find_label_map,
    find_video,
    split_of,
    start_of,
)
from datasets.frame_names import describe_gap
from datasets.preparation.worker_pool import run_jobs
from datasets.readers import UnreadableVideoError
from datasets.readers.timed import TimedVideo, find_frames
from datasets.sampling import Mode

AVA_SECONDS = 901
"""Length of AVA's folders of frames, from second 900 to 1801."""
FRAMES_OFF, SHARE_OFF = 2, 0.1
"""Frames that a folder may differ from that length, and the share from which on its seconds are shifted for sure."""
LEAST_FOUND = 0.5
"""Share of annotated persons below which the detected boxes are taken for those of other videos."""


@dataclass
class Findings:
    """What was found: faults, which a run would stop at or lose seconds to, and notes of what should be known."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, read: Callable, *arguments) -> Any:
        """Call a function; None, and a fault, where it refuses a file."""
        try:
            return read(*arguments)
        except (ValueError, OSError) as error:
            if str(error) not in self.faults:
                self.faults.append(str(error))
            return None


@dataclass(frozen=True)
class Annotations:
    """A split's file and what it says."""

    file: str
    seconds: dict[Second, Persons]

    @cached_property
    def first_lines(self) -> dict[str, int]:
        """The line of each video's first row."""
        lines: dict[str, int] = {}
        for (video, _), persons in self.seconds.items():
            lines.setdefault(video, persons.line)
        return lines

    def place(self, video: str) -> str:
        """Name the file and the line of a video's first row."""
        return f"{self.file}, line {self.first_lines[video]}"


@dataclass(frozen=True)
class VideoJob:
    """A movie or frame folder to be looked at, and the annotated seconds of it, ascending."""

    path: str
    filename_tmpl: str | None
    fps: float
    start: int
    seconds: tuple[int, ...]

    def key_frames(self) -> list[int]:
        """Return the number of the frame at each second."""
        return [round((second - self.start) * self.fps) for second in self.seconds]


def check_annotations(settings: DetectionListSettings, findings: Findings) -> dict[Mode, Annotations]:
    """Read all files of a data set and compare them; gives the annotations that could be read."""
    label_map = findings.attempt(find_label_map, settings)
    for file in find_exclusions(settings):
        findings.attempt(read_exclusions, file)
    if label_map is None:
        return {}
    splits: dict[Mode, Annotations] = {}
    for split in ("train", "validation", "test"):
        try:
            file = find_annotations(split, settings) if split_of(split, settings) == split else ""
        except FileNotFoundError:  # not every use needs all splits
            continue
        seconds = findings.attempt(read_annotations, file, label_map) if file else None
        if seconds:
            splits[split] = Annotations(file, seconds)
    if not splits and not findings.faults:
        findings.attempt(find_annotations, "train", settings)
    _compare_classes(splits, label_map, findings)
    for split, annotations in splits.items():
        _note_repeated_rows(annotations, findings)
        if split != "train":
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
    """Look at the movie or frame folder of every video: its length, gaps, and the frames at its annotated seconds.

    Returns:
        the number of movies and folders that are there.
    """
    jobs: dict[VideoJob, tuple[Annotations, str]] = {}
    for annotations in splits.values():
        seconds: dict[str, list[int]] = defaultdict(list)
        for video, second in annotations.seconds:
            seconds[video].append(second)
        for video, of_video in seconds.items():
            path = find_video(settings.data_root, video)
            if os.path.exists(path):
                start = start_of(path, settings.start_second)
                job = VideoJob(path, settings.filename_tmpl, settings.fps, start, tuple(sorted(of_video)))
                jobs[job] = annotations, video
            else:
                findings.faults.append(
                    f"{annotations.place(video)}: {path} is not there, neither as a folder of frames nor as a movie; "
                    "see --data_root, or leave the video out (tools.make_lists ava)"
                )
    told: dict[VideoJob, list[str]] = {}
    for outcome in run_jobs(look_at_video, jobs, workers=workers, time_limit=time_limit):
        job = outcome.job
        annotations, video = jobs[job]
        frames, faults = outcome.value or (0, [f"{job.path}: {outcome.error}"])
        told[job] = [f"{annotations.place(video)}: {fault}" for fault in faults]
        if frames:
            told[job] += _length_faults(job, video, frames, annotations, findings)
    findings.faults += [fault for job in jobs for fault in told[job]]
    return len(jobs)


def look_at_video(job: VideoJob) -> tuple[int, list[str]]:
    """Count the frames of a movie or frame folder, and read those at its first and last annotated second.

    Returns:
        frames, 0 where it cannot be read, and what is wrong with them.
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
    """Hold the number of frames to the annotated seconds, and that of AVA's folders to their 15 minutes."""
    faults = []
    beyond = [second for second, key in zip(job.seconds, job.key_frames(), strict=True) if not 0 <= key < frames]
    if beyond:
        line = annotations.seconds[video, beyond[0]].line
        faults.append(
            f"{annotations.file}, line {line}: second {beyond[0]} of {job.path} has no frame: it has {frames} frames "
            f"of {job.fps:g} a second from second {job.start} on ({len(beyond)} such seconds; --start_second, --fps)"
        )
    if job.start == FIRST_SECOND_OF_FOLDERS:
        expected = round(AVA_SECONDS * job.fps)
        place = f"{annotations.place(video)}: {job.path} has {frames} frames"
        if abs(frames - expected) > SHARE_OFF * expected:
            faults.append(
                f"{place}, and 15 minutes of {job.fps:g} a second are {expected}: its seconds are shifted; extract "
                "them again, or say how they were with --fps and --start_second"
            )
        elif abs(frames - expected) > FRAMES_OFF:
            findings.notes.append(f"{place}, and 15 minutes of {job.fps:g} a second are {expected}")
    return faults


def _compare_classes(splits: dict[Mode, Annotations], label_map: LabelMap, findings: Findings) -> None:
    """Note classes that are never seen in training, or never judged."""
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
                "remove it if that is not meant"
            )
        for split, annotations in splits.items():
            if class_id in seen[split] and class_id not in seen.get("train", seen[split]):
                findings.notes.append(
                    f'{annotations.file}, line {seen[split][class_id]}: class {class_id}, "{name}", is judged and was '
                    "never trained"
                )


def _note_repeated_rows(annotations: Annotations, findings: Findings) -> None:
    repeated = [
        persons.line
        for persons in annotations.seconds.values()
        if any(len(set(ids)) < len(ids) for ids in persons.labels)
    ]
    if repeated:
        findings.notes.append(
            f"{annotations.file}, line {repeated[0]}: a person of that second has an action twice, and so in "
            f"{len(repeated)} seconds; remove one of the rows, or it counts twice"
        )


def _note_shared_videos(annotations: Annotations, train: Annotations, findings: Findings) -> None:
    """A video to train on must not be tested."""
    shared = [video for video in annotations.first_lines if video in train.first_lines]
    if shared:
        findings.notes.append(
            f"{annotations.place(shared[0])}: {shared[0]} is trained on too ({train.place(shared[0])}), one of "
            f"{len(shared)} such videos"
        )


def _check_detected(
    split: Mode, annotations: Annotations, settings: DetectionListSettings, findings: Findings
) -> None:
    """Hold detected persons to those that are annotated."""
    try:
        file = find_file(settings.person_boxes, PERSON_BOXES[split], settings, "person_boxes")
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
        findings.faults.append(f"{words}; are these boxes of other videos, or shares of another picture size?")
    else:
        findings.notes.append(words)
    if without:
        findings.notes.append(f"{file}: {len(without)} annotated seconds have no such box, the first is {without[0]}")
