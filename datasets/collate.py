"""Collate samples into a batch, a dict that the training and evaluation loops read.

- clips: float32 (videos * R, C, T, H, W), in testing (videos, views, C, T, H, W); uint8 with --gpu_transforms;
- boxes: with --gpu_transforms, the boxes to erase, int64 (..., count, COLUMNS), with the leading dimensions of clips;
- targets: one per clip (in testing one per video), in the order of clips. Integers, such as labels, become int64 (N,),
  other numbers float32 (N,), arrays of equal shape a tensor (N, ...); anything else, such as a dict with the boxes of
  a clip, stays a list of N;
- indices: int64 (N,), the index of each target's record in the dataset;
- unreadable: list of (index, message), the videos of this batch that could not be read;
- redrawn: number of clips whose first random crop could not be used, if there are any.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import default_collate

from datasets.clip_dataset import Sample
from datasets.transforms import finish


@dataclass(frozen=True)
class Collate:
    """Collate samples into a batch; samples without clips are skipped, so a batch may be empty."""

    clip_shape: tuple[int, int, int, int]
    """(C, T, H, W)."""
    views: int = 0
    """Number of views of a video, which get a separate dimension; 0 for training and validation."""

    def __call__(self, samples: Sequence[Sample]) -> dict:
        """Collate samples into a batch."""
        unreadable = [problem for sample in samples for problem in sample.unreadable]
        read = [sample for sample in samples if sample.clips is not None]
        parts = [sample.clips for sample in samples if sample.clips is not None]
        repeats = torch.tensor([1 if self.views else len(part) for part in parts], dtype=torch.int64)
        if parts:
            clips = self._join(parts)
        else:
            views = (self.views,) if self.views else ()
            clips = torch.empty((0, *views, *self.clip_shape), dtype=torch.float32)
        batch = {
            "clips": clips,
            "targets": join_targets([s.target for s, count in zip(read, repeats, strict=True) for _ in range(count)]),
            "indices": torch.tensor([s.index for s in read], dtype=torch.int64).repeat_interleave(repeats),
            "unreadable": unreadable,
        }
        boxes = [sample.boxes for sample in read if sample.boxes is not None]
        if boxes:
            batch["boxes"] = self._join(boxes)
        if redrawn := sum(sample.redrawn for sample in read):
            batch["redrawn"] = redrawn
        return batch

    def _join(self, parts: list[torch.Tensor]) -> torch.Tensor:
        # In a worker, default_collate writes into shared memory, which saves another copy of the batch.
        joined = default_collate(parts)
        return joined if self.views else joined.flatten(0, 1)


def join_targets(targets: list) -> torch.Tensor | list:
    """Stack numbers or arrays of equal shape into a tensor; return anything else as a list."""
    if all(isinstance(target, (int, np.integer)) for target in targets):
        return torch.tensor(targets, dtype=torch.int64)
    if all(isinstance(target, (int, float, np.number)) for target in targets):
        return torch.tensor(targets, dtype=torch.float32)
    arrays = all(isinstance(target, (np.ndarray, torch.Tensor)) for target in targets)
    if arrays and len({tuple(target.shape) for target in targets}) == 1:
        return torch.stack([torch.as_tensor(target) for target in targets])
    return targets


def clips_on(device: torch.device | str, batch: dict) -> torch.Tensor:
    """Move the clips of a batch to a device and apply `finish`: float32 (N, C, T, H, W), normalised and erased."""
    return finish(batch["clips"].to(device, non_blocking=True), batch.get("boxes"))
