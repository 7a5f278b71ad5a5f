"""Read several videos in parallel, window by window, and collect what a model answers to each video."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.clip_dataset import read_clips
from datasets.readers import UnreadableVideoError
from datasets.worker import sharing_explained, start_worker
from inference.sources import windows_of


def answer_many(
    predictor: Any, paths: Sequence[str], answers: Callable[[Tensor], Sequence], batch_size: int, num_workers: int
) -> Iterator[tuple[str, list | UnreadableVideoError]]:
    """Yield each path with the answers to its windows, or its first error.

    Args:
        predictor: An `inference.predictor.Predictor`.
        paths: Of the videos.
        answers: Gives an answer for each window of clips (windows, views, C, T, H, W).
        batch_size: Windows per batch; a video that is not cut is one.
        num_workers: Processes that decode in advance.
    """
    loader = DataLoader(
        _Windows(paths, predictor),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=list,
        pin_memory=predictor.device.type == "cuda",
        worker_init_fn=start_worker,
    )
    with sharing_explained():
        windows = (window for batch in loader for window in _answered(batch, answers))
        for place, of_video in groupby(windows, key=lambda window: window[0]):
            found = [answer for _, answer in of_video]
            error = next((answer for answer in found if isinstance(answer, UnreadableVideoError)), None)
            yield paths[place], error or found


def _answered(
    batch: Sequence[tuple[int, Tensor | UnreadableVideoError]], answers: Callable[[Tensor], Sequence]
) -> Iterator[tuple[int, Any]]:
    """Yield the place of each window's video with the answer to its clips, or its error."""
    read = [clips for _, clips in batch if isinstance(clips, Tensor)]
    answered = iter(answers(torch.stack(read)) if read else ())
    for place, clips in batch:
        yield place, next(answered) if isinstance(clips, Tensor) else clips


class _Windows(Dataset):
    """The windows of videos: the place of the video in `paths`, and clips (views, C, T, H, W) or an error."""

    def __init__(self, paths: Sequence[str], predictor: Any):
        self.paths, self.plan, self.open = paths, predictor.plan, predictor.open
        self.windows = [
            (place, segment)
            for place, path in enumerate(paths)
            for segment in windows_of(path, predictor.window, predictor.window_stride)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[int, Tensor | UnreadableVideoError]:
        place, segment = self.windows[index]
        try:
            return place, read_clips(self.open(self.paths[place], segment), self.plan, np.random.default_rng(0))
        except UnreadableVideoError as error:
            return place, error
