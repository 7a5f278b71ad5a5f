"""Settings of the data and their command-line flags: lists, sampling, augmentation, loading."""

import argparse
from dataclasses import dataclass, fields
from typing import Self

from common.settings import add_options, check_choices, from_flags, option
from datasets.lists import ListSettings
from datasets.sampling import ViewSettings
from datasets.settings import AugmentationSettings, LoadingSettings

GROUPS = {
    "data: lists": ListSettings,
    "data: frames and views": ViewSettings,
    "data: augmentation (training)": AugmentationSettings,
    "data: loading": LoadingSettings,
}


@dataclass(frozen=True)
class DataSettings(ListSettings, ViewSettings, AugmentationSettings, LoadingSettings):
    """All settings of `build_dataset` and `build_loader`; fields have the same defaults as their flags.

    Example:
        dataset = build_dataset("train", DataSettings(data_path="lists", num_frames=8))
    """

    def __post_init__(self):
        check_choices(self)
        if self.sampler == "balanced" and self.task != "classification":
            raise ValueError(f"--sampler balanced needs one class a clip, which --task {self.task} does not have")

    @classmethod
    def from_flags(cls, flags: argparse.Namespace) -> Self:
        """Take the settings from parsed flags; those missing (as in an older args.json) get their defaults."""
        lacking = {field.name: field.default for field in fields(cls) if field.name not in flags}
        return from_flags(cls, flags, **lacking)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this package to a parser; their names are those of VideoMAE."""
    for title, settings in GROUPS.items():
        add_options(parser.add_argument_group(title), settings)


@dataclass(frozen=True)
class ProbeListSettings:
    """The list that is probed."""

    probe_list: str = option(
        "",
        "labelled list, `path label`, on which the features of the student are tested by their nearest neighbours "
        "after every --eval_freq epochs (default: none)",
        metavar="FILE",
    )


@dataclass(frozen=True)
class PretrainingSettings(DataSettings, ProbeListSettings):
    """Settings of the data of masked pretraining."""
