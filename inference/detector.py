"""Load the checkpoint of an action detector and predict the actions of the persons in given boxes."""

import argparse
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.annotations import VIDEO_SUFFIXES, is_image_path
from datasets.detection.annotations import FULL, Keyframe, Persons, Second, read_person_boxes
from datasets.detection.arguments import DetectionSettings
from datasets.detection.build import build_detection_loader, dataset_of
from datasets.detection.keyframe_dataset import KeyframeDataset
from datasets.detection.label_map import LabelMap
from datasets.detection.lists import Keyframes, make_keyframe
from datasets.readers import UnreadableVideoError
from engines.distributed import resolve_device
from engines.objectives.detection import Detection, DetectionTestSettings
from inference.labels import label_names_of
from inference.predictor import ScoresNotFiniteError
from inference.sources import expand_sources
from models.build import build_described
from models.checkpoint import CheckpointError, load_checkpoint
from models.describe import CheckpointFacts, describe_checkpoint

WHOLE_PICTURE = (0.0, 0.0, 1.0, 1.0)


@dataclass
class VideoDetections:
    """The detections in a video, or the reason why there are none.

    Attributes:
        path: Path of the video.
        records: Key frames, each with its `boxes` (n, 4) and the `scores` (n,) of the person detector.
        scores: Scores (n, classes) of the boxes of each key frame.
        unreadable: Reasons why seconds could not be read, by second.
        error: Why the whole video could not be read or scored; None if it could.
    """

    path: str
    records: list[Keyframe] = field(default_factory=list)
    scores: list[np.ndarray] = field(default_factory=list)
    unreadable: dict[int, str] = field(default_factory=dict)
    error: UnreadableVideoError | ScoresNotFiniteError | None = None

    def problems(self) -> list[str]:
        """Return a message for everything that could not be read or scored."""
        if self.error is not None:
            verb = "read" if isinstance(self.error, UnreadableVideoError) else "predict"
            return [f"cannot {verb} {self.path}: {self.error.reason}"]
        return [f"cannot read second {second} of {self.path}: {reason}" for second, reason in self.unreadable.items()]


@dataclass(frozen=True)
class Detector:
    """A trained action detector on its device, and how to read videos for it.

    Attributes:
        objective: Computes the scores, as in the test.
        settings: Settings of the data, as in the test.
        device: Device of the model.
        bf16: Compute in bfloat16 with autocast.
    """

    objective: Detection
    settings: DetectionSettings
    device: torch.device
    bf16: bool

    def dataset(self, video: VideoDetections) -> KeyframeDataset:
        """Return a dataset that opens the video of these detections."""
        return self._dataset(video.records, "")

    def detect(self, paths: Sequence[str], boxes: str) -> Iterator[VideoDetections]:
        """Predict the actions of the persons in boxes, one video after another.

        Args:
            paths: Videos or folders of frames; their names without suffix are the video ids in the file of boxes.
            boxes: File of detected persons in AVA's columns, or `FULL`. Boxes that score below the threshold of the
                settings are ignored.

        Returns:
            The detections of each video. A video that cannot be read has an `error`.

        Raises:
            FileNotFoundError: The file of boxes does not exist.
            AnnotationError: The file of boxes has faulty lines.
            ValueError: Two videos have the same id.
        """
        persons = {} if boxes == FULL else read_person_boxes(boxes, self.settings.box_threshold)
        found: dict[str, VideoDetections] = {}
        for video, path in _by_id(paths).items():
            found[path] = VideoDetections(path)
            try:
                of_video = (
                    self._every_second(video, path) if boxes == FULL else _seconds_of(video, path, persons, boxes)
                )
                found[path].records = [
                    make_keyframe(path, shown.line, second, None, shown) for second, shown in of_video.items()
                ]
            except UnreadableVideoError as error:
                found[path].error = error
        return self._detect(found, boxes)

    def _dataset(self, records: list[Keyframe], boxes: str) -> KeyframeDataset:
        """Build a data set of key frames that is read as in the test; `boxes` is their file, for messages."""
        keyframes = Keyframes(boxes, "", self.objective.label_map, frozenset(), records)
        return dataset_of(keyframes, "test", self.settings)

    def _every_second(self, video: str, path: str) -> dict[Second, Persons]:
        """Return a box of the whole picture for each second of a video."""
        start = self.settings.start_second or 0
        first = make_keyframe(path, 1, (video, start), None, None)
        frames = len(self._dataset([first], FULL).open_record(first))
        seconds = range(start, start + max(1, int(frames / self.settings.fps)))
        return {(video, second): Persons(1, boxes=[WHOLE_PICTURE], scores=[1.0]) for second in seconds}

    def _detect(self, found: dict[str, VideoDetections], boxes: str) -> Iterator[VideoDetections]:
        """Compute the scores and yield each video when it is complete."""
        records = [record for video in found.values() for record in video.records]
        waiting = Counter(record.path for record in records)
        outputs = self._outputs(self._dataset(records, boxes)) if records else iter(())
        known: dict[int, np.ndarray | str] = {}
        first = 0
        for video in found.values():
            while waiting[video.path]:
                index, output = next(outputs)
                known[index] = output
                waiting[records[index].path] -= 1
            count = len(video.records)
            if video.error is None:
                _fill(video, [known.pop(index) for index in range(first, first + count)])
            first += count
            yield video

    @torch.no_grad()
    def _outputs(self, dataset: KeyframeDataset) -> Iterator[tuple[int, np.ndarray | str]]:
        """Yield the index of each record with its scores (n, classes), or with the reason why it is unreadable."""
        loader = build_detection_loader(dataset, "test", self.settings)
        loader.logs_unreadable = False  # the detections of a video contain the reasons
        for batch in loader:
            yield from batch["unreadable"]
            if len(batch["clips"]):
                with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
                    scores = self.objective.outputs(batch, self.device, clips_per_forward=self.settings.batch_size)
                yield from zip(batch["indices"].tolist(), scores, strict=True)


def load_detector(
    checkpoint: str | Path,
    *,
    device: str = "",
    label_names: str | Path | Sequence[str] = "",
    bf16: bool | None = None,
    backend: str | None = None,
    **overrides: Any,
) -> Detector:
    """Load the checkpoint of an action detector; videos are then read as in the test of its run.

    Args:
        checkpoint: Path of a .pth or .safetensors file.
        device: "cpu", "cuda" or "cuda:1", for example; empty for CUDA if available.
        label_names: Class names in order, or a file with one per line; empty for those in the checkpoint.
        bf16: Compute in bfloat16; None for GPUs that support it, as in the test.
        backend: Backend of the scan; None for the fastest.
        **overrides: Fields of `DetectionSettings`; None keeps the value in the checkpoint.

    Raises:
        FileNotFoundError: The checkpoint does not exist.
        CheckpointError: The file is no action detector of this family, or does not contain its class ids.
        ValueError: Settings contradict each other or the detector, or the number of names does not match the classes.
    """
    facts = describe_checkpoint(checkpoint)
    if not is_detector(facts):
        raise CheckpointError(f"{checkpoint} is a classifier of clips, not an action detector")
    label_map = _label_map_of(facts, label_names)
    settings = _settings_of(facts, overrides)
    _refuse_frames(facts, settings.num_frames)
    model = build_described(facts, **({"backend": backend} if backend else {}))
    load_checkpoint(model, checkpoint, require_head=True)
    target = resolve_device(device)
    if bf16 is None:
        bf16 = target.type == "cuda" and torch.cuda.is_bf16_supported()
    return Detector(
        objective=Detection(model.to(target), label_map, _test_settings_of(facts)).eval(),
        settings=settings,
        device=target,
        bf16=bf16,
    )


def is_detector(facts: CheckpointFacts) -> bool:
    """Return whether a checkpoint is an action detector rather than a classifier of clips."""
    return bool(facts.config.get("time_pool"))


def sources_of_detection(given: Sequence[str], filename_tmpl: str, data_root: str) -> list[str]:
    """Return the videos in files, folders and lists; arguments and errors as in `expand_sources`.

    A folder with pictures is a video, whatever their names, unless there are video files beside them: they are its
    videos, and a picture among them is a thumbnail or a plot.
    """
    sources: dict[str, None] = {}
    for path in given:
        files = os.listdir(path) if os.path.isdir(path) else []
        if any(map(is_image_path, files)) and not any(name.lower().endswith(VIDEO_SUFFIXES) for name in files):
            sources[path] = None
        else:
            settings = {"filename_tmpl": filename_tmpl} if filename_tmpl else {}
            sources |= dict.fromkeys(expand_sources([path], data_root=data_root, **settings))
    return list(sources)


def _label_map_of(facts: CheckpointFacts, label_names: str | Path | Sequence[str]) -> LabelMap:
    ids = facts.flags.get("class_ids")
    if not ids:
        raise CheckpointError(
            f"{facts.path} does not contain the ids of its classes; use a checkpoint of run_action_detection.py"
        )
    names = label_names_of(label_names or facts.flags.get("class_names") or "", len(ids))
    return LabelMap(str(facts.path), tuple(ids), names)


def _settings_of(facts: CheckpointFacts, overrides: dict[str, Any]) -> DetectionSettings:
    """Return the settings in a checkpoint, except for the location of its videos, with overrides."""
    given = {name: value for name, value in overrides.items() if value is not None}
    from_file = {"patch_size": facts.config["patch_size"], "start_second": 0, "filename_tmpl": ""}
    return DetectionSettings.from_flags(argparse.Namespace(**(facts.flags | from_file | given)))


def _refuse_frames(facts: CheckpointFacts, frames: int) -> None:
    """Raise a ValueError if the detector does not take clips of that many frames."""
    of_file, tubelet = facts.config["num_frames"], facts.config.get("tubelet_size", 1)
    if facts.config["time_pool"] == "concat" and frames != of_file:
        raise ValueError(
            f"{facts.path} contradicts the flags: --num_frames {frames}, the file has {of_file}, whose features its "
            "head reads side by side (--time_pool concat). Omit the flag to use the file's value"
        )
    if frames % tubelet:
        raise ValueError(f"{facts.path}: --num_frames {frames} must be a multiple of its tubelet_size {tubelet}")


def _test_settings_of(facts: CheckpointFacts) -> DetectionTestSettings:
    known = DetectionTestSettings()
    return replace(known, person_score=facts.flags.get("person_score", known.person_score))


def refuse_commas(paths: Sequence[str]) -> None:
    """Raise a ValueError if the id of a video has a comma, which separates the columns of AVA's files."""
    if path := next((path for path in paths if "," in _id_of(path)), None):
        raise ValueError(f"{path} has a comma in its name, which separates columns in --csv; rename it or use --json")


def _id_of(path: str) -> str:
    """Return the id of a video, the name of the file without suffix, or of the folder."""
    return os.path.basename(os.path.normpath(path)) if os.path.isdir(path) else Path(path).stem


def _by_id(paths: Sequence[str]) -> dict[str, str]:
    """Return the paths of videos by id.

    Raises:
        ValueError: Two videos have the same id.
    """
    found: dict[str, str] = {}
    for path in paths:
        video = _id_of(path)
        if video in found:
            raise ValueError(f"{found[video]} and {path} have the same id, {video}; process them separately")
        found[video] = path
    return found


def _seconds_of(video: str, path: str, persons: dict[Second, Persons], boxes: str) -> dict[Second, Persons]:
    """Return the persons of a video, ordered by second.

    Raises:
        UnreadableVideoError: There are none.
    """
    found = {second: persons[second] for second in sorted(persons) if second[0] == video}
    if not found:
        first = next(iter(persons), ("", 0))[0]
        raise UnreadableVideoError(
            path, f"{boxes} has no box for video {video} that scores enough; its first video is {first}"
        )
    return found


def _fill(video: VideoDetections, outputs: list[np.ndarray | str]) -> None:
    """Store the scores of the key frames that could be read, and the reasons for the others."""
    read = [
        (record, output) for record, output in zip(video.records, outputs, strict=True) if not isinstance(output, str)
    ]
    video.unreadable = {
        record.second: output for record, output in zip(video.records, outputs, strict=True) if isinstance(output, str)
    }
    video.records, video.scores = [record for record, _ in read], [scores for _, scores in read]
    if not read:
        video.error = UnreadableVideoError(video.path, next(iter(video.unreadable.values())))
    elif not all(np.isfinite(scores).all() for scores in video.scores):
        video.error = ScoresNotFiniteError()
