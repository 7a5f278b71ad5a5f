"""Files with a row for each video: features, logits or scores, with the list's lines and labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import atomic_write
from inference.list_rows import ListRow


def write_rows(path: Path, name: str, rows: Mapping[str, np.ndarray], listed: Sequence[ListRow] = ()) -> None:
    """Write `paths` (n,) and an array of n rows atomically, for lists also `lines` and `labels` (n,).

    Args:
        path: The file, .npz.
        name: Of the array: features, logits or scores.
        rows: Video -> its row, all of one shape.
        listed: Lines of the list that the videos are from, so that each line has a row, also where a video occurs
            twice; empty for one row a video, in the order of `rows`.
    """
    chosen = [row for row in listed if row.path in rows] or [ListRow(video, 0) for video in rows]
    arrays: dict[str, Any] = {"paths": np.array([row.path for row in chosen])}
    arrays[name] = np.stack([rows[row.path] for row in chosen])
    if listed:
        arrays["lines"] = np.array([row.line for row in chosen])
        if isinstance(listed[0].label, int):  # several labels a video are no array
            arrays["labels"] = np.array([row.label for row in chosen])
    with atomic_write(path) as file:
        np.savez(file, **arrays)
