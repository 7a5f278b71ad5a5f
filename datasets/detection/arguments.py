"""Data settings for action detection and their command-line flags."""

import argparse
from dataclasses import dataclass, fields
from typing import Self

from common.flag_types import fraction, non_negative, positive_int
from common.settings import add_options, check_choices, flag, from_flags, option
from datasets.detection.lists import DetectionListSettings
from datasets.readers import DECODERS
from datasets.settings import LoadingSettings
from models.config import ModelConfig


@dataclass(frozen=True)
class DetectionViewSettings:
    """Settings of frames, views and augmentation."""

    num_frames: int = option(16, "frames of a clip; the key frame has the index N / 2", positive_int)
    sampling_rate: int = option(4, "step between frames", positive_int)
    input_size: int = option(224, "side of a training clip in pixels", positive_int)
    short_side_size: int = option(256, "short side of the whole frame in evaluation, pixels", positive_int)
    train_short_side: tuple[int, int] = option(
        (256, 320), "range of the short side in training, before cropping", positive_int, metavar=("MIN", "MAX")
    )
    hflip: float = option(0.5, "probability of a horizontal flip in training", fraction)
    box_jitter: float = option(
        1.0,
        "strength of the box jitter in training (1: as VideoMAE); evaluation enlarges boxes by its mean",
        non_negative,
    )
    gpu_transforms: bool = flag(
        False, "normalise on the device; workers then send 1 byte per value instead of 4 (default: off)"
    )
    patch_size: int = 16
    """Patch size in pixels; both sides of frames in evaluation are multiples of it. A flag of the model."""
    seed: int = 0
    """Seed of sampling and augmentation; a flag of the engine."""


GROUPS = {
    "data: annotations and boxes": DetectionListSettings,
    "data: frames and views": DetectionViewSettings,
    "data: loading": LoadingSettings,
}


@dataclass(frozen=True)
class DetectionSettings(DetectionListSettings, DetectionViewSettings, LoadingSettings):
    """All settings of `build_detection_dataset` and `build_detection_loader`, with the defaults of the flags."""

    def __post_init__(self):
        check_choices(self)
        if self.sampler != "uniform":
            raise ValueError("--sampler balanced needs one class per clip, but clips with boxes have several")
        if self.reader != DECODERS[0]:
            raise ValueError(f"--reader {self.reader} cannot read movies by time stamp; use --reader {DECODERS[0]}")
        if self.train_short_side[0] > self.train_short_side[1]:
            raise ValueError(f"--train_short_side {self.train_short_side}: the first value must be the smaller one")
        if self.train_short_side[0] < self.input_size:
            raise ValueError(
                f"--train_short_side {self.train_short_side[0]} is smaller than --input_size {self.input_size}: the "
                "frames would be smaller than the crop"
            )
        if self.short_side_size % self.patch_size:
            raise ValueError(
                f"--short_side_size {self.short_side_size} must be a multiple of the patch size {self.patch_size}"
            )

    @classmethod
    def from_flags(cls, flags: argparse.Namespace) -> Self:
        """Take the settings from parsed flags; what they lack, as those of an older args.json may, is the default.

        The patch size that is left to the model is the registered one.
        """
        lacking = {field.name: field.default for field in fields(cls) if field.name not in flags}
        if not getattr(flags, "patch_size", None):
            from models.videomambapro import registered_config  # imports torch, which the flags do without

            lacking["patch_size"] = (registered_config(getattr(flags, "model", "")) or ModelConfig()).patch_size
        return from_flags(cls, flags, **lacking)


def add_detection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the data flags of action detection to a parser."""
    for title, settings in GROUPS.items():
        add_options(parser.add_argument_group(title), settings)
