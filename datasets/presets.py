"""Presets: a table of named data sets and their fixed settings.

Code depends only on the fields of a preset, never on its name.
"""

from dataclasses import dataclass

from datasets.annotations import Kind

VIDEO_AA = "rand-m7-n4-mstd0.5-inc1"
IMAGE_AA = "rand-m9-mstd0.5-inc1"


@dataclass(frozen=True)
class Preset:
    """Settings of a data set; each field is a default that a flag can override."""

    name: str
    sampling: str
    """dense, sparse or uniform (see `datasets.sampling`)."""
    num_classes: int = 0
    """0: set by --nb_classes, or determined from the training list."""
    kind: Kind | None = None
    """Kind of the lists; None: detected from their lines."""
    hflip: float = 0.5
    """Probability of mirroring in training; 0 if classes distinguish left and right."""
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
        Preset("Breakfast", sampling="sparse", num_classes=10),
        Preset("COIN", sampling="sparse", num_classes=180),
        Preset("ImageNet", sampling="uniform", num_classes=1000, kind="image", aa=IMAGE_AA),
        Preset("custom", sampling="dense"),
    )
}


def get_preset(name: str) -> Preset:
    """Look up a preset by name, ignoring case.

    Raises:
        ValueError: There is no such preset; the message lists all of them.
    """
    for preset in PRESETS.values():
        if preset.name.lower() == name.lower():
            return preset
    raise ValueError(f'unknown --data_set "{name}"; choose from {", ".join(PRESETS)}')


def recipe_of_classes(num_classes: int | None) -> str:
    """Return the name of the recipe for a number of classes, "" if there is none; recipes are named after presets."""
    return next((name.lower() for name, preset in PRESETS.items() if preset.num_classes == (num_classes or -1)), "")
