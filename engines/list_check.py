"""Looking at every line and file of a run's lists before anything expensive begins."""

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from datasets.annotations import FrameFolderRecord, check_files_exist, is_image_path
from datasets.build import build_dataset
from datasets.clip_dataset import ClipDataset

_logger = logging.getLogger(__name__)


@dataclass
class DataCheck:
    """What became of the lists.

    Attributes:
        datasets: mode -> data set, of the lists that could be read.
        faults: what must be repaired, each with file and line.
        warnings: what should be known.
    """

    datasets: dict[str, ClipDataset] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_data(args: argparse.Namespace, modes: Sequence[str]) -> DataCheck:
    """Read the lists of all modes, look for every file they name, and read one sample of each.

    A list that cannot be read does not keep the others from being looked at.
    """
    check = DataCheck()
    for mode in modes:
        try:
            check.datasets[mode] = build_dataset(mode, args)
        except (ValueError, FileNotFoundError) as error:
            if str(error) not in check.faults:
                check.faults.append(str(error))
    for mode, dataset in check.datasets.items():
        missing = check_files_exist(dataset.records)
        check.faults += [f"{dataset.list_file}, line {record.line}: {record.path} is not there" for record in missing]
        there = {record.line for record in missing}
        check.faults += _missing_frames(dataset, args.filename_tmpl, skip=there)
        if not missing:
            _try_one(mode, dataset, check)
    _warn_of_shared_files(check)
    return check


def _missing_frames(dataset: ClipDataset, template: str, skip: set[int]) -> list[str]:
    """Frame folders whose last frame is not there: the list says more frames than they have, or other names."""
    faults = []
    for record in dataset.records:
        if not isinstance(record, FrameFolderRecord) or record.line in skip or is_image_path(record.path):
            continue
        last = os.path.join(record.path, template.format(record.total_frames))
        if not os.path.isfile(last):
            faults.append(
                f"{dataset.list_file}, line {record.line}: frame {record.total_frames} of {record.path} is not "
                f"there ({last}); see --filename_tmpl"
            )
    return faults


def _try_one(mode: str, dataset: ClipDataset, check: DataCheck) -> None:
    """Decode and transform the first record, so that reader and settings are seen to work."""
    sample = dataset[0]
    check.warnings += [message for _, message in sample.unreadable]
    if sample.clips is not None:
        _logger.info(
            "%s: %d videos in %s; the first gives clips %s",
            mode,
            len(dataset),
            dataset.list_file,
            tuple(sample.clips.shape),
        )


def _warn_of_shared_files(check: DataCheck) -> None:
    """A video to train on must not be tested."""
    if "train" not in check.datasets:
        return
    trained = {record.path for record in check.datasets["train"].records}
    for mode in check.datasets.keys() - {"train"}:
        shared = [record for record in check.datasets[mode].records if record.path in trained]
        if shared:
            check.warnings.append(
                f"{len(shared)} file(s) of {check.datasets[mode].list_file} are in the training list "
                f"too, the first in line {shared[0].line}: {shared[0].path}"
            )
