"""The settings of the data, and their command-line flags: lists, sampling, augmentation, loading."""

import argparse
from dataclasses import dataclass, fields
from typing import Self

from common.settings import add_options, check_choices, from_flags
from datasets.lists import ListSettings
from datasets.loader import LoadingSettings
from datasets.sampling import ViewSettings
from datasets.transforms import AugmentationSettings

GROUPS = {
    "data: lists": ListSettings,
    "data: frames and views": ViewSettings,
    "data: augmentation (training)": AugmentationSettings,
    "data: loading": LoadingSettings,
}


@dataclass(frozen=True)
class DataSettings(ListSettings, ViewSettings, AugmentationSettings, LoadingSettings):
    """All that `build_dataset` and `build_loader` need, each field with the default of its flag.

    dataset = build_dataset("train", DataSettings(data_path="lists", num_frames=8))
    """

    def __post_init__(self):
        check_choices(self)

    @classmethod
    def from_flags(cls, flags: argparse.Namespace) -> Self:
        """Take the settings from parsed flags; what they lack, as those of an older args.json may, is the default."""
        lacking = {field.name: field.default for field in fields(cls) if field.name not in flags}
        return from_flags(cls, flags, **lacking)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this package to a parser, with VideoMAE's names."""
    for title, settings in GROUPS.items():
        add_options(parser.add_argument_group(title), settings)
