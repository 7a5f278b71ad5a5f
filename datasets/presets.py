"""The data sets that have a name: what is fixed about each, as a table.

A preset is data: reading a list, sampling and augmentation ask for its fields and never for its name.
"""

from dataclasses import dataclass

from datasets.annotations import Kind

VIDEO_AA = "rand-m7-n4-mstd0.5-inc1"
IMAGE_AA = "rand-m9-mstd0.5-inc1"


@dataclass(frozen=True)
class Preset:
    """What is fixed about a data set; each field is the default that a flag can override."""

    name: str
    sampling: str
    """dense, sparse or uniform (see `datasets.sampling`)."""
    num_classes: int = 0
    """0: given by --nb_classes, or read off the training list."""
    kind: Kind | None = None
    """what the lists name; None: recognised from their lines."""
    hflip: float = 0.5
    """probability of mirroring in training; 0 where classes tell left from right."""
    aa: str = VIDEO_AA
    """RandAugment settings."""


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("Kinetics", sampling="dense"),
        Preset("Kinetics_sparse", sampling="sparse"),
        Preset("K400", sampling="sparse", num_classes=400),
        Preset("SSV2", sampling="uniform", num_classes=174, hflip=0.0),
        Preset("UCF101", sampling="dense", num_classes=101),
        Preset("HMDB51", sampling="dense", num_classes=51),
        Preset("JHMDB", sampling="sparse", num_classes=21),
        Preset("Breakfast", sampling="sparse", num_classes=10),
        Preset("COIN", sampling="sparse", num_classes=180),
        Preset("ImageNet", sampling="uniform", num_classes=1000, kind="image", aa=IMAGE_AA),
        Preset("custom", sampling="dense"),
    )
}


def get_preset(name: str) -> Preset:
    """Look a preset up by name, whatever its capitals.

    Raises:
        ValueError: there is none; the message lists those that are.
    """
    for preset in PRESETS.values():
        if preset.name.lower() == name.lower():
            return preset
    raise ValueError(f'--data_set "{name}" is not known; there are {", ".join(PRESETS)}')


def recipe_of_classes(num_classes: int | None) -> str:
    """Name the recipe that tests a head of so many classes, "" for none; recipes are named like their data sets."""
    return next((name.lower() for name, preset in PRESETS.items() if preset.num_classes == (num_classes or -1)), "")
