"""A part of the training list that is held out of training, to choose settings by."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from datasets.annotations import Record
from datasets.arguments import DataSettings
from datasets.build import build_dataset
from datasets.clip_dataset import ClipDataset
from datasets.lists import find_list_of
from datasets.records import compact
from datasets.sampling import Mode

SHARE = 10  # of the list, one in so many


def held_out_rows(labels: Sequence[int], seed: int) -> np.ndarray:
    """Choose a tenth of a list, stratified by class.

    Every class keeps at least one row for training, so that a class of a single row is not held out.

    Args:
        labels: Of the rows.
        seed: Of the choice within a class.

    Returns:
        sorted positions (n,), where n is a tenth of the rows and at least 1.

    Raises:
        ValueError: No class has two rows.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(np.asarray(labels)[order], kind="stable")]  # by class, random within
    first_of_class = np.concatenate([[True], np.diff(np.asarray(labels)[order]) != 0])
    candidates = order[~first_of_class]
    if not len(candidates):
        raise ValueError("no class has two videos, so none can be held out to choose by")
    count = min(max(1, len(labels) // SHARE), len(candidates))
    # Evenly spaced, so that each class has its share.
    places = ((np.arange(count) + 0.5) * len(candidates) / count).astype(np.int64)
    return np.sort(candidates[places])


def build_with_held_out(mode: Mode, settings: DataSettings) -> ClipDataset:
    """Build the dataset of a mode as `build_dataset` does, but validate on a held-out tenth of the training list.

    Raises:
        FileNotFoundError, ValueError: See `build_dataset` and `held_out_rows`.
    """
    if mode == "test":
        return build_dataset(mode, settings)
    dataset = build_dataset(mode, replace(settings, val_list=str(find_list_of("train", settings))))
    label_of: dict[str, Any] = {record.path: record.target for record in dataset.listed}
    paths = list(label_of)
    # A video is held out with all its segments and windows.
    held_out = {paths[row] for row in held_out_rows(list(label_of.values()), settings.seed)}

    def of_mode(records: Sequence[Record]) -> Sequence[Record]:
        return compact(record for record in records if (record.path in held_out) == (mode == "validation"))

    dataset.records = of_mode(dataset.records)
    dataset.films = None if dataset.films is None else of_mode(dataset.films)
    return dataset
