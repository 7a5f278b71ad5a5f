"""Lists for masked pretraining: clips without labels to train on, and a labelled list to probe what was learnt.

A training list is any list that this package reads, whose labels are then ignored, or one of bare paths of videos or
images, one a line.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datasets.annotations import FrameFolderRecord, Kind, Record, VideoRecord, is_image_path
from datasets.arguments import PretrainingSettings
from datasets.build import dataset_of
from datasets.clip_dataset import ClipDataset
from datasets.list_lines import INTEGER, evenly_spread, numbered_lines, read_text
from datasets.lists import ListSettings, find_training_list, read_records
from datasets.presets import get_preset
from datasets.sampling import Mode

_SAMPLED_LINES = 1000

logger = logging.getLogger(__name__)


def build_pretraining_dataset(mode: Mode, settings: PretrainingSettings) -> ClipDataset:
    """Build the dataset to train on, or with mode "validation" the one to probe.

    Raises:
        FileNotFoundError: A list is missing, or none of the files in a list exists.
        ValueError: A list has invalid lines, or flags contradict each other.
    """
    if mode == "train":
        list_file = find_training_list(settings)
        records, kind = read_unlabelled(list_file, settings)
    else:
        list_file = Path(settings.probe_list)
        records, kind = read_records(list_file, replace(settings, task="classification"))
        if len(records) < 2:
            raise ValueError(f"{list_file} has one video; --probe_list needs two at least, to compare them")
    dataset = dataset_of(records, kind, mode, settings, num_classes=0, list_file=list_file)
    logger.info("%s: %d clips of kind %s, from %s", "training" if mode == "train" else "probe", len(records), kind,
                list_file)  # fmt: skip
    return dataset


def read_unlabelled(list_file: Path, settings: ListSettings) -> tuple[Sequence[Record], Kind]:
    """Read a list with or without labels; those of bare paths become 0.

    Args:
        list_file: UTF-8 text file. If no line ends in a number, every line is a path.
        settings: As in `datasets.lists.read_records`.

    Raises:
        FileNotFoundError: The list does not exist.
        ListFileError: The list is empty or has invalid lines.
    """
    lines = _numbered_lines(list_file)
    if not lines or any(_ends_in_number(line) for _, line in evenly_spread(lines, _SAMPLED_LINES)):
        return read_records(list_file, settings)
    paths = [(number, os.path.join(settings.data_root, _unquoted(line))) for number, line in lines]
    kind = get_preset(settings.data_set).kind
    if kind is None:
        kind = "image" if sum(is_image_path(path) for _, path in paths) > len(paths) / 2 else "video"
    if kind == "image":
        return [FrameFolderRecord(path=path, total_frames=1, target=0, line=number) for number, path in paths], kind
    return [VideoRecord(path=path, target=0, line=number) for number, path in paths], kind


def _numbered_lines(list_file: Path) -> Sequence[tuple[int, str]]:
    """Return the lines that are not blank with their numbers; none of files that `read_list` refuses."""
    try:
        text = read_text(list_file)
    except (OSError, UnicodeDecodeError):
        return []
    return list(numbered_lines(text))


def _ends_in_number(line: str) -> bool:
    """Whether the last column is a number, whatever separates the columns."""
    return bool(INTEGER.fullmatch(_unquoted(line).replace(",", " ").replace(";", " ").split()[-1].strip('"')))


def _unquoted(line: str) -> str:
    quoted = len(line) > 1 and line[0] == line[-1] == '"'
    return line[1:-1].replace('""', '"') if quoted else line
