"""Base class of the datasets: read a record and turn it into the clips of one sample.

A sample consists of everything read from one video: `num_sample` augmentations of one clip in training, one clip in
validation, and all views (segments x crops) in testing. Its video is opened once and each frame is decoded once.

Unreadable videos do not stop a run and are never ignored silently: training uses another video instead, evaluation
skips the video, and in both cases the sample records the file and the reason.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from common.memory import release_after
from datasets.annotations import Record
from datasets.readers import FrameReader, Guard, UnreadableVideoError, open_reader
from datasets.records import compact
from datasets.sampling import Mode
from datasets.transforms import finish

MAX_REPLACEMENTS = 20

MAX_ELONGATION = 32
"""Maximum aspect ratio: resized by its shorter side, an image of 2 x 16000 pixels would fill the memory."""


class SampleKey(NamedTuple):
    """Index of a record, epoch (for its random numbers), and number of earlier occurrences in the epoch."""

    index: int
    epoch: int = 0
    draw: int = 0


@dataclass
class Sample:
    """What a dataset returns for one record."""

    clips: torch.Tensor | None
    """(views, C, T, H, W), float32 and normalised, or uint8 with `ClipPlan.gpu_transforms`; None for an unreadable
    video in evaluation."""
    target: Any
    """Target of the record."""
    index: int
    """Index of the record that was read, in `records`."""
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    """Records that could not be read: index and message."""
    boxes: torch.Tensor | None = None
    """Boxes to erase in uint8 clips, (views, count, COLUMNS), as drawn by `datasets.erasing`."""
    redrawn: int = 0
    """Number of clips whose first random crop could not be used."""


class Prepared(NamedTuple):
    """Clips of a record before `datasets.transforms.finish`, with their target; the fields are those of `Sample`."""

    clips: torch.Tensor
    boxes: torch.Tensor
    target: Any
    redrawn: int = 0


@dataclass(frozen=True)
class ClipPlan:
    """How a record is turned into clips; the same for all kinds of datasets."""

    mode: Mode
    sample: Callable[..., np.ndarray]
    """Samples frame numbers: (total_frames, mode=, segment=, num_segments=, rng=) -> (T,)."""
    transform: Any
    """A `Compose`: maps frames uint8 (T, H, W, 3) to views (V, C, T, H, W). A dataset with its own `prepare` may use
    other callables here and in `sample`."""
    clip_shape: tuple[int, int, int, int]
    """(C, T, H, W) of the output of `transform`."""
    segments: int = 1
    """Number of temporal clips in testing."""
    crops: int = 1
    """Number of views that `transform` makes of one clip."""
    repeats: int = 1
    """Number of augmentations of the same frames in training."""
    seed: int = 0
    gpu_transforms: bool = False
    """Leave normalisation and erasing (`datasets.transforms.finish`) to the consumer of the samples."""


class ClipDataset(Dataset, ABC):
    """A list of records read as clips; subclasses define how a record is opened.

    Random numbers depend only on the seed and the `SampleKey`, not on the number of workers or the order of reading,
    so `dataset[SampleKey(index, epoch)]` reproduces a sample.

    Args:
        records: Records of `list_file`.
        plan: How records are turned into clips.
        num_classes: Number of classes.
        list_file: Path of the list, for messages.
        guard: Reads files in a separate process that may hang or crash; None reads them in this process.
        films: The records of the list, if `records` are windows of them, with the same lines; else None.
    """

    def __init__(
        self,
        records: Sequence[Record],
        plan: ClipPlan,
        *,
        num_classes: int,
        list_file: str,
        guard: Guard | None = None,
        films: Sequence[Record] | None = None,
    ):
        if not records:
            raise ValueError(f"{list_file} has no records")
        self.records = compact(records)
        self.films = None if films is None else compact(films)
        self.plan = plan
        self.num_classes = num_classes
        self.list_file = str(list_file)
        self.guard = guard

    @property
    def listed(self) -> Sequence[Record]:
        """The records of the list: one per line, however many windows it is cut into."""
        return self.records if self.films is None else self.films

    @abstractmethod
    def opener(self, record: Record) -> Callable[[], FrameReader]:
        """Return a picklable function that opens the file or folder of a record or raises `UnreadableVideoError`."""

    def open_record(self, record: Record) -> FrameReader:
        """Open the file or folder of a record; raise `UnreadableVideoError` if that fails."""
        return open_reader(record.path, self.opener(record), self.guard)

    def prepare(self, record: Record, rng: np.random.Generator) -> Prepared:
        """Read the clips of a record; raise `UnreadableVideoError` if that fails."""
        return Prepared(*_prepare_clips(self.open_record(record), self.plan, rng), record.target)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | SampleKey) -> Sample:
        """Read one record; a plain index is read as in epoch 0.

        Raises:
            UnreadableVideoError: In training, if `MAX_REPLACEMENTS` other videos could not be read either.
        """
        index, epoch, draw = key if isinstance(key, SampleKey) else SampleKey(key)
        rng = np.random.default_rng((self.plan.seed, epoch, index, draw))
        unreadable = []
        for _ in range(1 + MAX_REPLACEMENTS):
            record = self.records[index]
            try:
                clips, boxes, target, redrawn = self.prepare(record, rng)
                if self.plan.gpu_transforms:
                    # Copy, because the next read overwrites frames that no transform has changed.
                    return Sample(clips.clone(), target, index, unreadable, boxes, redrawn)
                return Sample(finish(clips, boxes), target, index, unreadable, redrawn=redrawn)
            except UnreadableVideoError as error:
                unreadable.append((index, f"{self.list_file}, line {record.line}: {error}"))
            if self.plan.mode != "train":
                return Sample(None, record.target, index, unreadable)
            index = int(rng.integers(len(self.records)))
        raise UnreadableVideoError(
            self.list_file, f"{len(unreadable)} videos in a row cannot be read; the last one: {unreadable[-1][1]}"
        )


def read_clips(reader: FrameReader, plan: ClipPlan, rng: np.random.Generator) -> torch.Tensor:
    """Decode and transform all views of a video, ordered by segment, then by crop.

    Returns:
        float32 (views, C, T, H, W), normalised regardless of `plan.gpu_transforms`.

    Raises:
        UnreadableVideoError: Frames cannot be decoded.
    """
    return finish(*_prepare_clips(reader, plan, rng))


def read_frames(reader: FrameReader, indices: np.ndarray) -> np.ndarray:
    """Read frames (T,) -> uint8 (T, H, W, 3).

    Raises:
        UnreadableVideoError: Frames cannot be decoded, or are too elongated to be resized.
    """
    frames = reader.read(indices)
    height, width = frames.shape[1:3]
    if max(height, width) > MAX_ELONGATION * min(height, width):
        raise UnreadableVideoError(
            getattr(reader, "path", "the video"),
            f"its frames of {width} x {height} pixels are longer than {MAX_ELONGATION} times their shorter side",
        )
    return frames


def _prepare_clips(reader: FrameReader, plan: ClipPlan, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Decode a video and apply all transforms before `finish`; return the clips and boxes that `finish` takes."""
    sample = partial(plan.sample, len(reader), mode=plan.mode, num_segments=plan.segments, rng=rng)
    wanted = np.stack([sample(segment=k) for k in range(plan.segments)])
    frames = read_frames(reader, wanted.reshape(-1))
    parts = frames.reshape(*wanted.shape, *frames.shape[1:])
    prepared = [plan.transform.prepare(part, rng) for part in parts for _ in range(plan.repeats)]
    release_after(frames.nbytes)
    if len(prepared) == 1:
        return prepared[0]
    clips, boxes = zip(*prepared, strict=True)
    return torch.cat(clips), torch.cat(boxes)
