"""Dataset for action detection: a clip around a second of a video, with the boxes of that second."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.clip_dataset import ClipDataset, ClipPlan, Prepared, Sample, read_frames
from datasets.collate import Collate
from datasets.detection.annotations import Keyframe
from datasets.detection.lists import Keyframes, start_of
from datasets.detection.transforms import Transformed
from datasets.erasing import COLUMNS
from datasets.readers import FrameReader, UnreadableVideoError
from datasets.readers.timed import TimedVideo, open_frame_folder


class KeyframeDataset(ClipDataset):
    """Dataset of seconds of movies or frame folders, read as clips with boxes.

    The target of a sample is a dict of tensors: `boxes` float32 (n, 4), x1 y1 x2 y2 in pixels of the clip; `labels`
    float32 (n, classes), 1 for the classes of a box, all 0 if they are unknown; `scores` float32 (n,) of the person
    detector; `written` float64 (n, 4), the boxes as read, in fractions of the original frame.
    """

    records: list[Any]

    def __init__(
        self,
        keyframes: Keyframes,
        plan: ClipPlan,
        *,
        filename_tmpl: str | None = None,
        fps: float = 30.0,
        start_second: int | None = None,
        **shared,
    ):
        """Initialise the dataset.

        Args:
            keyframes: Records and their files.
            plan: Its `sample` takes (key, total_frames); its `transform` takes (frames, boxes, rng) and returns a
                `Transformed`.
            filename_tmpl: Template of the frames' file names; None: detected in each folder.
            fps: Frames per second, at which folders were extracted and movies are sampled.
            start_second: Second at which folders or movies begin; None: 900 for folders, as in AVA, and 0 for movies.
            **shared: Other arguments of `ClipDataset`.
        """
        super().__init__(
            keyframes.records,  # pyright: ignore[reportArgumentType]  (its own type of record)
            plan,
            num_classes=len(keyframes.label_map),
            list_file=keyframes.annotation_file,
            **shared,
        )
        self.label_map, self.person_file = keyframes.label_map, keyframes.person_file
        self.excluded = keyframes.excluded
        self.filename_tmpl, self.fps, self.start_second = filename_tmpl, fps, start_second

    def opener(self, record: Any) -> Callable[[], FrameReader]:
        """Return a picklable function that opens the folder or movie of a record."""
        if os.path.isdir(record.path):
            return partial(open_frame_folder, record.path, self.filename_tmpl)
        return partial(TimedVideo, record.path, self.fps)

    def prepare(self, record: Any, rng: np.random.Generator) -> Prepared:
        """Read the clip around a record's second and transform it together with its boxes."""
        reader = self.open_record(record)
        frames = read_frames(reader, self.plan.sample(self.key_frame(record, len(reader)), len(reader)))
        transformed: Transformed = self.plan.transform(frames, record.boxes, rng)
        clips = transformed.clip.transpose(0, 1)[None]  # (1, C, T, H, W)
        nothing_to_erase = torch.zeros((1, 0, COLUMNS), dtype=torch.int64)
        return Prepared(clips, nothing_to_erase, self._target(record, transformed), int(transformed.redrawn))

    def key_frame(self, record: Keyframe, total_frames: int) -> int:
        """Return the number of the frame at a record's second; raise `UnreadableVideoError` if there is none."""
        start = start_of(record.path, self.start_second)
        key = round((record.second - start) * self.fps)
        if not 0 <= key < total_frames:
            raise UnreadableVideoError(
                record.path,
                f"it has no second {record.second}, only {start} to {start + total_frames / self.fps:.0f}"
                " (--start_second, --fps)",
            )
        return key

    def _target(self, record: Keyframe, transformed: Transformed) -> dict[str, Tensor]:
        kept = transformed.kept
        known = record.boxes is record.target["boxes"]
        labels = record.target["labels"] if known else [()] * len(record.boxes)
        return {
            "boxes": torch.as_tensor(transformed.boxes, dtype=torch.float32),
            "labels": torch.from_numpy(self.label_map.multi_hot(labels)[kept]),
            "scores": torch.from_numpy(record.scores[kept]),
            "written": torch.from_numpy(record.boxes[kept]),
        }


@dataclass(frozen=True)
class CollateByShape:
    """Collate samples into one batch per shape of clips, in the order of the first clip of each shape."""

    collate: Collate

    def __call__(self, samples: Sequence[Sample]) -> list[dict]:
        """Collate samples; those without clips are added to the first batch."""
        groups: dict[torch.Size, list[Sample]] = {}
        for sample in samples:
            if sample.clips is not None:
                groups.setdefault(sample.clips.shape, []).append(sample)
        unread = [sample for sample in samples if sample.clips is None]
        first, *others = groups.values() or [[]]
        return [self.collate(group) for group in ([*first, *unread], *others)]
