"""Presets: a table of named data sets and their fixed settings.

Code depends only on the fields of a preset, never on its name.
"""

from dataclasses import dataclass

from datasets.annotations import Kind

LVU_CLASSES = {"relationship": 4, "way_speaking": 5, "scene": 6, "director": 10, "genre": 4, "writer": 10, "year": 9}
LVU_CLASSES |= {"like_ratio": 0, "view_count": 0}
"""Number of classes of each task of LVU; 0 for a regression. Not all classes occur in its lists."""
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
    window_seconds: float = 0
    """Length of the windows that videos are cut into; 0 for whole videos."""


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
        Preset("LVU", sampling="sparse", window_seconds=60),
        *(Preset(f"LVU-{task}", "sparse", classes, window_seconds=60) for task, classes in LVU_CLASSES.items()),
        Preset("ImageNet", sampling="uniform", num_classes=1000, kind="image", aa=IMAGE_AA),
        Preset("custom", sampling="dense"),
    )
}

# Names of VideoMAE's and VideoMamba's scripts for what has another name here.
ALIASES = {"kinetics-400": "Kinetics", "mitv1_sparse": "Kinetics_sparse", "imnet": "ImageNet"}

# Published names without a counterpart, and the alternatives.
_REFUSED = {
    "image_folder": "reads a folder instead of lists; python -m tools.make_lists folder writes them (then: custom)",
}


def get_preset(name: str) -> Preset:
    """Look up a preset by name or alias, ignoring case.

    Raises:
        ValueError: There is no such preset; the message lists all, or says why a published name is not supported.
    """
    preset = find_preset(name)
    if preset is not None:
        return preset
    if name.lower() in _REFUSED:
        raise ValueError(f"--data_set {name} {_REFUSED[name.lower()]}")
    raise ValueError(f'unknown --data_set "{name}"; choose from {", ".join(PRESETS)}')


def find_preset(name: str) -> Preset | None:
    """Look up a preset as `get_preset` does; return None if there is none."""
    wanted = ALIASES.get(name.lower(), name).lower()
    return next((preset for preset in PRESETS.values() if preset.name.lower() == wanted), None)


def recipe_of_classes(num_classes: int | None) -> str:
    """Return the name of the recipe for a number of classes, "" if there is none; recipes are named after presets.

    Presets with windows are left out: so few classes say nothing about the data set.
    """
    whole = {name.lower(): preset.num_classes for name, preset in PRESETS.items() if not preset.window_seconds}
    return next((name for name, classes in whole.items() if classes == (num_classes or -1)), "")
