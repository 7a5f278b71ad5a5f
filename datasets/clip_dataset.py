"""What the data sets share: from a record to the clips of one sample.

A sample is everything that is read of one video: in training `num_sample` augmentations of one clip, in validation one
clip, in testing all views (segments x crops). Its video is opened once and each frame decoded once.

A video that cannot be read never stops a run unseen: training takes another one in its place, evaluation leaves it
out, and either way the sample tells which file and why.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from common.memory import release_after
from datasets.annotations import Record
from datasets.readers import FrameReader, Guard, UnreadableVideoError, open_reader
from datasets.sampling import Mode
from datasets.transforms import finish

MAX_REPLACEMENTS = 20

MAX_ELONGATION = 32
"""Longer side over shorter: resized by its shorter side, a picture of 2 x 16000 pixels would fill the memory."""


class SampleKey(NamedTuple):
    """Which record, the epoch that its random numbers belong to, and how often it has come in the epoch before."""

    index: int
    epoch: int = 0
    draw: int = 0


@dataclass
class Sample:
    """What a data set gives for one record."""

    clips: torch.Tensor | None
    """(views, C, T, H, W): float32, normalised; with `ClipPlan.gpu_transforms` uint8. None where an evaluation video
    could not be read."""
    target: Any
    """of its record."""
    index: int
    """of the record that was read, in `records`."""
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    """records that could not be read on the way: index and message."""
    boxes: torch.Tensor | None = None
    """of uint8 clips: what to erase in them, (views, count, COLUMNS) as `datasets.erasing` draws it."""
    redrawn: int = 0
    """clips whose first random crop could not be used."""


class Prepared(NamedTuple):
    """The clips of a record before `datasets.transforms.finish`, and their target; fields as in `Sample`."""

    clips: torch.Tensor
    boxes: torch.Tensor
    target: Any
    redrawn: int = 0


@dataclass(frozen=True)
class ClipPlan:
    """How a record becomes clips; the same for every kind of data set."""

    mode: Mode
    sample: Callable[..., np.ndarray]
    """frame numbers: (total_frames, mode=, segment=, num_segments=, rng=) -> (T,)."""
    transform: Any
    """a `Compose`, frames uint8 (T, H, W, 3) -> views (V, C, T, H, W); a data set with a `prepare` of its own may want
    another callable here and in `sample`."""
    clip_shape: tuple[int, int, int, int]
    """(C, T, H, W) of what `transform` gives."""
    segments: int = 1
    """clips over time, in testing."""
    crops: int = 1
    """views that `transform` makes of one clip."""
    repeats: int = 1
    """augmentations of the same frames, in training."""
    seed: int = 0
    gpu_transforms: bool = False
    """leave normalisation and erasing to whoever reads the samples: `datasets.transforms.finish`."""


class ClipDataset(Dataset, ABC):
    """A list of records read as clips; subclasses say how a record is opened.

    Random numbers depend on seed and `SampleKey` alone, not on the number of workers or the order of reading, so a
    sample can be reproduced by `dataset[SampleKey(index, epoch)]`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        plan: ClipPlan,
        *,
        num_classes: int,
        list_file: str,
        guard: Guard | None = None,
    ):
        """Keep the records of `list_file` and how to read them: with a guard in a process that may hang or crash."""
        if not records:
            raise ValueError(f"{list_file} has no records")
        self.records = list(records)
        self.plan = plan
        self.num_classes = num_classes
        self.list_file = str(list_file)
        self.guard = guard

    @abstractmethod
    def opener(self, record: Record) -> Callable[[], FrameReader]:
        """Give what opens the file or folder of a record; it can be pickled and raises `UnreadableVideoError`."""

    def open_record(self, record: Record) -> FrameReader:
        """Open the file or folder of a record; raises `UnreadableVideoError`."""
        return open_reader(record.path, self.opener(record), self.guard)

    def prepare(self, record: Record, rng: np.random.Generator) -> Prepared:
        """Read the clips of a record; raises `UnreadableVideoError`."""
        return Prepared(*_prepare_clips(self.open_record(record), self.plan, rng), record.target)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        """Read one record; a plain index stands for epoch 0.

        Raises:
            UnreadableVideoError: in training, when not even `MAX_REPLACEMENTS` other videos could be read.
        """
        index, epoch, draw = key if isinstance(key, SampleKey) else SampleKey(key)
        rng = np.random.default_rng((self.plan.seed, epoch, index, draw))
        unreadable = []
        for _ in range(1 + MAX_REPLACEMENTS):
            record = self.records[index]
            try:
                clips, boxes, target, redrawn = self.prepare(record, rng)
                if self.plan.gpu_transforms:
                    # A copy: the next reading overwrites frames that no step had to change.
                    return Sample(clips.clone(), target, index, unreadable, boxes, redrawn)
                return Sample(finish(clips, boxes), target, index, unreadable, redrawn=redrawn)
            except UnreadableVideoError as error:
                unreadable.append((index, f"{self.list_file}, line {record.line}: {error}"))
            if self.plan.mode != "train":
                return Sample(None, record.target, index, unreadable)
            index = int(rng.integers(len(self.records)))
        raise UnreadableVideoError(
            self.list_file, f"{len(unreadable)} of its videos in a row cannot be read; the last: {unreadable[-1][1]}"
        )


def read_clips(reader: FrameReader, plan: ClipPlan, rng: np.random.Generator) -> torch.Tensor:
    """Decode and transform every view of a video, segment by segment, within a segment crop by crop.

    Returns:
        float32 (views, C, T, H, W), normalised, whatever `plan.gpu_transforms` says.

    Raises:
        UnreadableVideoError: frames do not decode.
    """
    return finish(*_prepare_clips(reader, plan, rng))


def read_frames(reader: FrameReader, indices: np.ndarray) -> np.ndarray:
    """Read frames (T,) -> uint8 (T, H, W, 3).

    Raises:
        UnreadableVideoError: frames do not decode, or are too long and thin to be resized.
    """
    frames = reader.read(indices)
    height, width = frames.shape[1:3]
    if max(height, width) > MAX_ELONGATION * min(height, width):
        raise UnreadableVideoError(
            getattr(reader, "path", "the video"),
            f"its pictures of {width} x {height} pixels are longer than {MAX_ELONGATION} times their shorter side",
        )
    return frames


def _prepare_clips(reader: FrameReader, plan: ClipPlan, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode a video and do with every view what comes before `finish`: clips and boxes as that takes them."""
    wanted = np.stack([
        plan.sample(len(reader), mode=plan.mode, segment=k, num_segments=plan.segments, rng=rng)
        for k in range(plan.segments)
    ])  # fmt: skip
    frames = read_frames(reader, wanted.reshape(-1))
    parts = frames.reshape(*wanted.shape, *frames.shape[1:])
    prepared = [plan.transform.prepare(part, rng) for part in parts for _ in range(plan.repeats)]
    release_after(frames.nbytes)
    if len(prepared) == 1:
        return prepared[0]
    clips, boxes = zip(*prepared, strict=True)
    return torch.cat(clips), torch.cat(boxes)
