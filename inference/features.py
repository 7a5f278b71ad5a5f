"""Write features of videos to a folder: one row per video, or one array per video with a row for each window.

Every finished video has an array and a record, so an interrupted extraction continues where it stopped
and several processes can share the videos. `FeatureFolder.join` makes the final files from the records.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.files import atomic_write, write_json
from datasets.readers import FrameReader, UnreadableVideoError, frame_rate
from inference.batch import output_paths
from inference.defaults import LOGITS
from inference.list_rows import ListRow
from inference.predictor import Predictor, ScoresNotFiniteError
from inference.stored_rows import write_rows
from inference.timeline import read_windows, windows_read_together

DESCRIPTION = "features.json"
ROWS = "features.npz"
RECORDS = "records"

Failure = UnreadableVideoError | ScoresNotFiniteError


def full_windows(total_frames: int, window: int, stride: int) -> np.ndarray:
    """Return the first frames (n,) of the windows that lie within a video: 0, stride, 2 stride, ...

    Heads for temporal detection derive the time of a row from its number, so there is no shifted window at the end. A
    video shorter than a window gets a single one.
    """
    return np.arange(0, max(1, total_frames - window + 1), stride, dtype=np.int64)


def window_features(
    predictor: Predictor, reader: FrameReader, starts: np.ndarray, window: int, pool: str
) -> np.ndarray:
    """Compute the features of windows that start at `starts` (n,), averaged over crops: float32 (n, ...).

    Each window is read like a video of that length in the test, with one segment.

    Raises:
        UnreadableVideoError: frames cannot be decoded.
    """
    rows = []
    for part in windows_read_together(predictor, starts):
        clips, _ = read_windows(predictor, reader, part, window)
        crops = predictor.features_of_clips(clips.flatten(0, 1), pool)
        rows.append(crops.reshape(*clips.shape[:2], *crops.shape[1:]).mean(1))
    return np.concatenate(rows)


def describe_features(
    predictor: Predictor, checkpoint: Path, *, pool: str, half: bool, window: int, stride: int, views: bool = False
) -> dict[str, Any]:
    """Return everything that the numbers depend on besides the videos, as plain values for features.json.

    Args:
        predictor: Computes the features.
        checkpoint: Its file.
        pool: One of `inference.defaults.POOLS`.
        half: Whether the arrays are float16.
        window: Frames of a window; 0 for none.
        stride: Frames between windows.
        views: Whether the views of a video are kept apart and not averaged.
    """
    plan = predictor.plan
    with open(checkpoint, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if window:
        cut: dict[str, Any] = {"window": window, "stride": stride}
    else:
        cut = {"segments": plan.segments}
        if predictor.window:
            cut |= {"window_seconds": predictor.window, "window_stride": predictor.window_stride}
    return {
        "checkpoint_sha256": digest,
        "model": predictor.model.config.name,
        "pool": pool,
        "dtype": "float16" if half else "float32",
        **cut,
        **({"views": "each"} if views else {}),
        "crops": plan.crops,
        "clip_shape": list(plan.clip_shape),
        "sampling": {"name": plan.sample.func.__name__, **plan.sample.keywords},
        "bf16": predictor.bf16,
    }


@dataclass(frozen=True)
class FeatureFolder:
    """A folder of features and the videos that it is for.

    Attributes:
        folder: the output folder.
        predictor: computes the features.
        description: from `describe_features`.
        arrays: source -> array of a video; of its row, or of its windows.
    """

    folder: Path
    predictor: Predictor
    description: dict[str, Any]
    arrays: dict[str, Path]

    @classmethod
    def open(
        cls, folder: Path, predictor: Predictor, description: dict[str, Any], sources: Sequence[str]
    ) -> "FeatureFolder":
        """Begin or continue the features of `sources`, whose names in the folder depend on all of them.

        Raises:
            ValueError: two videos have the same name, or the folder has features of other settings or of another
                video of that name.
        """
        place = folder if "window" in description else folder / RECORDS
        opened = cls(folder, predictor, description, output_paths(str(place), sources, ".npy"))
        file = folder / DESCRIPTION
        if not file.exists():
            write_json(file, description)
            return opened
        found = json.loads(file.read_text(encoding="utf-8"))
        names = sorted((found.keys() | description.keys()) - {"videos", "failed"})
        other = [name for name in names if found.get(name) != description.get(name)]
        if other:
            words = ", ".join(f"{name} {found.get(name)}, now {description.get(name)}" for name in other)
            raise ValueError(f"{folder} has features of other settings ({words}); choose another --output")
        for source, array in opened.arrays.items():
            owner = opened._read_record(source).get("path", os.path.abspath(source))
            if owner != os.path.abspath(source):
                raise ValueError(f"{array} has features of {owner}, not of {source}; choose another --output")
        return opened

    @property
    def _has_rows(self) -> bool:
        """Whether the features are rows of videos, and not of windows."""
        return "window" not in self.description

    def unfinished(self, sources: Sequence[str]) -> list[str]:
        """Return the sources without complete files."""
        return [source for source in sources if not self._is_finished(source)]

    def extract(self, sources: Sequence[str], *, num_workers: int = 0) -> Iterator[tuple[str, Failure | None]]:
        """Compute and write the features of videos, and yield each with its error or None.

        Args:
            sources: videos of this folder.
            num_workers: processes that decode videos in advance; windows are read without them.
        """
        if not self._has_rows:
            for source in sources:
                yield source, self._write_windows(source)
            return
        predictor = self.predictor
        answers = predictor.features_many(
            sources,
            self.description["pool"],
            batch_size=max(1, predictor.clips_per_forward // predictor.views),
            num_workers=num_workers,
        )
        for source, answer in answers:
            if isinstance(answer, np.ndarray):
                self._write(source, self._row(answer), {})
            yield source, None if isinstance(answer, np.ndarray) else answer

    def join(self, failures: dict[str, str], listed: Sequence[ListRow] = ()) -> Path:
        """Write the final files from the records of all finished videos, in the order of the sources.

        Args:
            failures: source -> why it has no features.
            listed: lines of the list that the sources are from, if they are from one.

        Returns:
            the file with the rows; for windows, or if no video has features, the one that describes them.
        """
        finished = [source for source in self.arrays if self._is_finished(source)]
        content = self.description | ({"failed": failures} if failures else {})
        if not self._has_rows:
            videos = {source: self._read_record(source) for source in finished}
            write_json(self.folder / DESCRIPTION, content | {"videos": videos})
            return self.folder / DESCRIPTION
        write_json(self.folder / DESCRIPTION, content)
        if not finished:
            return self.folder / DESCRIPTION
        name = LOGITS if self.description["pool"] == LOGITS else "features"
        rows = {source: np.load(self.arrays[source]) for source in finished}
        write_rows(self.folder / ROWS, name, rows, listed)
        return self.folder / ROWS

    def _row(self, rows: np.ndarray) -> np.ndarray:
        """Average the rows (windows x views, ...) of a video to one (...), or over its windows to (views, ...)."""
        if "views" in self.description:
            rows = rows.reshape(-1, self.predictor.views, *rows.shape[1:])
        return rows.mean(0)

    def _record(self, source: str) -> Path:
        """The file that says which video an array belongs to."""
        array = self.arrays[source]
        return array.with_suffix(".json") if self._has_rows else self.folder / RECORDS / self._name(source, ".json")

    def _name(self, source: str, suffix: str) -> Path:
        return self.arrays[source].relative_to(self.folder).with_suffix(suffix)

    def _read_record(self, source: str) -> dict[str, Any]:
        """Read the record of a video; empty if there is none."""
        file = self._record(source)
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def _is_finished(self, source: str) -> bool:
        record = self._read_record(source)
        try:
            array = np.load(self.arrays[source], mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return False
        complete = self._has_rows or len(array) == len(record.get("first_frames", ()))
        return bool(record) and complete and array.dtype == self.description["dtype"]

    def _write_windows(self, source: str) -> Failure | None:
        window, stride = self.description["window"], self.description["stride"]
        try:
            reader = self.predictor.open(source)
            total, rate = len(reader), frame_rate(reader)
            starts = full_windows(total, window, stride)
            length = min(window, total)
            rows = window_features(self.predictor, reader, starts, length, self.description["pool"])
        except UnreadableVideoError as error:
            return error
        if not np.isfinite(rows).all():
            return ScoresNotFiniteError()
        about = {
            "file": self._name(source, ".npy").as_posix(),
            "frames": total,
            "fps": float(rate) if rate else None,
            "first_frames": starts.tolist(),
        }
        self._write(source, rows, about)
        return None

    def _write(self, source: str, array: np.ndarray, about: dict[str, Any]) -> None:
        # The array last: with it, the video is finished.
        write_json(self._record(source), {"path": os.path.abspath(source)} | about)
        with atomic_write(self.arrays[source]) as file:
            np.save(file, array.astype(self.description["dtype"]))
