"""Check of every line and file of a run's lists before anything expensive starts."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from datasets.annotations import FrameFolderRecord, find_absent, is_single_image, path_fault
from datasets.build import build_dataset
from datasets.clip_dataset import ClipDataset
from datasets.detection.keyframe_dataset import KeyframeDataset
from datasets.rawframe_cls import RawFrameClsDataset
from datasets.readers.header import describe_excess
from datasets.sampling import Mode

_logger = logging.getLogger(__name__)


@dataclass
class DataCheck:
    """Result of the check.

    Attributes:
        datasets: mode -> data set, for each list that could be read.
        faults: errors to fix, each with file and line.
        warnings: oddities that do not stop a run.
    """

    datasets: dict[str, ClipDataset] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_data(
    settings: Any, modes: Sequence[Mode], build_dataset: Callable[[Mode, Any], ClipDataset] = build_dataset
) -> DataCheck:
    """Read the lists of all modes, check that every file exists and is not empty, and read one sample of each list.

    If a list cannot be read, the others are still checked.

    Args:
        settings: of the data.
        modes: to check.
        build_dataset: builds a data set from a mode and the settings.
    """
    check = DataCheck()
    for mode in modes:
        try:
            check.datasets[mode] = build_dataset(mode, settings)
        except (ValueError, FileNotFoundError) as error:
            if str(error) not in check.faults:
                check.faults.append(str(error))
    for mode, dataset in check.datasets.items():
        absent = _absent_movies(dataset) if isinstance(dataset, KeyframeDataset) else find_absent(dataset.listed)
        missing = [f"{dataset.list_file}, line {record.line}: {record.path} {reason}" for record, reason in absent]
        check.faults += [fault for fault in missing if fault not in check.faults]
        check.faults += _beyond_the_end(dataset)
        if isinstance(dataset, RawFrameClsDataset):
            _check_frames(dataset, check, skip={record.line for record, _ in absent})
        if not absent:
            _try_one(mode, dataset, check)
    _warn_of_shared_files(check)
    return check


def _absent_movies(dataset: KeyframeDataset) -> list[tuple[Any, str]]:
    """Return a record of each movie or frame folder that does not exist or is empty, and the reason."""
    firsts = {record.path: record for record in reversed(dataset.records)}
    faults = [(record, path_fault(path, os.path.isdir(path))) for path, record in firsts.items()]
    return [(record, fault) for record, fault in faults if fault]


def _beyond_the_end(dataset: ClipDataset) -> list[str]:
    """Return a line for each segment that ends after its video, as far as the headers of the files tell."""
    faults = []
    for record in dataset.listed:
        segment = getattr(record, "segment", None)
        if segment and (excess := describe_excess(record.path, segment)):
            faults.append(f"{dataset.list_file}, line {record.line}: {record.path} {excess}")
    return faults


def _check_frames(dataset: RawFrameClsDataset, check: DataCheck, skip: set[int]) -> None:
    """Check that the first and last frame of each frame folder exist.

    One of them is missing if the list has too many frames, other file names or another first number. Frames after the
    last one are never read, so they cause a warning.
    """
    more = []
    for record in cast(Sequence[FrameFolderRecord], dataset.records):
        if record.line in skip or is_single_image(record):
            continue
        first = dataset.first_frame
        numbers = {"first": first, "last": first + record.total_frames - 1, "next": first + record.total_frames}
        files = {
            place: os.path.join(record.path, dataset.filename_tmpl.format(number)) for place, number in numbers.items()
        }
        absent = next((place for place in ("first", "last") if not os.path.isfile(files[place])), None)
        if absent:
            check.faults.append(
                f"{dataset.list_file}, line {record.line}: the {absent} of {record.total_frames} frames of "
                f"{record.path} is missing ({files[absent]}); see --filename_tmpl and --first_frame"
            )
        elif files["next"] != files["last"] and os.path.isfile(files["next"]):
            more.append(record)
    if more:
        check.warnings.append(
            f"{dataset.list_file}: {len(more)} folder(s) contain more frames than the list says, the first in line "
            f"{more[0].line}: {more[0].path} ({more[0].total_frames} in the list)"
        )


def _try_one(mode: str, dataset: ClipDataset, check: DataCheck) -> None:
    """Decode and transform the first record, to check that reader and settings work."""
    sample = dataset[0]
    check.warnings += [message for _, message in sample.unreadable]
    if sample.clips is not None:
        _logger.info(
            "%s: %d videos in %s; shape of the first clips: %s",
            mode,
            len(dataset),
            dataset.list_file,
            tuple(sample.clips.shape),
        )


def _warn_of_shared_files(check: DataCheck) -> None:
    """Warn about files that are both in the training list and in a validation or test list."""
    if "train" not in check.datasets:
        return
    trained = {record.path for record in check.datasets["train"].records}
    lists = {dataset.list_file: dataset.records for mode, dataset in check.datasets.items() if mode != "train"}
    for list_file, records in lists.items():
        shared = {record.path: record for record in reversed(records) if record.path in trained}
        if shared:
            first = min(shared.values(), key=lambda record: record.line)
            check.warnings.append(
                f"{len(shared)} file(s) of {list_file} are also in the training list, the first in line {first.line}: "
                f"{first.path}"
            )
