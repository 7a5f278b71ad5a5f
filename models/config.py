"""Configuration of a model: the single definition of all sizes and switches.

Flags, constructor, checkpoints and their checks are derived from it. A new switch needs one field of `ModelConfig` and
its use in the model or, with `mixer=True`, a keyword of the mixer. PyTorch is not imported.
"""

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

from common.flag_types import non_negative_int, positive_int, proper_fraction
from common.frame_size import FrameSize, as_flag, as_pair
from mamba.mamba_ssm.variants import BIMAMBA_TYPES, SCAN_INPUTS

DT_INITS = ("mamba", "published")
TIME_POOLS = ("mean", "concat")
"""How an action detector (models/detection.py) brings times together; "" is a classifier of clips."""


class Role(Enum):
    """Meaning of a field for checkpoints."""

    SIZE = "determined by the shapes of the tensors; loading adapts or refuses weights of other sizes"
    SWITCH = "not visible in the tensors; weights are only valid with the value they were trained with"
    FREE = "belongs to the training or the machine; weights are valid with any value"


@dataclass(frozen=True)
class Setting:
    """Metadata of a field of `ModelConfig`.

    Attributes:
        name: Name of the field.
        default: Default of the field.
        help: Description of the field, also used as help text of its flag.
        role: Meaning of the field for checkpoints.
        flag: Destination of its flag; empty for the name of the field.
        flagged: Whether it has a flag.
        from_data: Whether the flag is defined in `datasets.arguments`.
        by_name: Whether registered models may set the field; the default of the flag is then None ("as registered").
        mixer: Whether it is also a keyword of the mixer.
        detector: Whether only action detectors have the field and its flag.
        factor: Name of the field in the ablation; empty if it is not ablated.
        choices: Allowed values; empty for any.
        pair: Whether the value may be two numbers, of height and width.
        type: Parses and checks a value from the command line.
    """

    name: str = ""
    default: Any = None
    help: str = ""
    role: Role = Role.SWITCH
    flag: str = ""
    flagged: bool = True
    from_data: bool = False
    by_name: bool = False
    mixer: bool = False
    detector: bool = False
    factor: str = ""
    choices: tuple[str, ...] = ()
    pair: bool = False
    type: Callable[[str], Any] = str

    def check(self, value: Any) -> None:
        """Raise a ValueError that names the field if `value` is invalid."""
        if value is None and self.default is None:
            return
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} must be one of {self.choices}, got {value!r}")
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise ValueError(f"{self.name} must be True or False, got {value!r}")
            return
        try:
            for one in value if self.pair and isinstance(value, (list, tuple)) and len(value) == 2 else [value]:
                self.type(str(one))
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{self.name} {value!r}: {error}") from error


def setting(default: Any, help: str = "", role: Role = Role.SWITCH, **derived: Any) -> Any:
    """Declare a field of `ModelConfig`; `derived` are further attributes of `Setting`."""
    known = Setting(default=default, help=help, role=role, **derived)
    return dataclasses.field(default=default, metadata={"setting": known})


def _known_mixer(name: str) -> str:
    from models.mixers import MIXERS  # imports torch, which the declaration of flags does without

    if name not in MIXERS:
        raise argparse.ArgumentTypeError(f"there is no such mixer; choose from {', '.join(MIXERS)}")
    return name


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and switches of a `VideoMambaPro`, each with its description, flag and role in a checkpoint.

    Raises:
        ValueError: A value is invalid, or two values contradict each other.
    """

    name: str = setting("", "registered name; empty for other models", Role.FREE, flagged=False)
    img_size: FrameSize = setting(
        224,
        "height and width of the frames in pixels, or one number for squares",
        Role.SIZE,
        flag="input_size",
        from_data=True,
        pair=True,
        type=positive_int,
    )
    patch_size: int = setting(16, "side of a patch in pixels", Role.SIZE, by_name=True, type=positive_int)
    stem: str = setting(
        "",
        "image model of timm, frozen, whose maps with cells of --patch_size pixels stand for the patches' pixels",
        by_name=True,
    )
    depth: int = setting(24, "number of blocks", Role.SIZE, by_name=True, type=positive_int)
    embed_dim: int = setting(192, "width of the tokens", Role.SIZE, by_name=True, type=positive_int)
    in_chans: int = setting(3, "channels of a frame", Role.SIZE, flagged=False, type=positive_int)
    num_classes: int = setting(
        1000,
        "outputs of the head; 0 for no head",
        Role.SIZE,
        flag="nb_classes",
        from_data=True,
        type=non_negative_int,
    )
    num_frames: int = setting(
        8, "frames per clip, a multiple of the tubelet size", Role.SIZE, from_data=True, type=positive_int
    )
    tubelet_size: int = setting(1, "frames per tubelet", Role.SIZE, type=positive_int)
    drop_rate: float = setting(
        0.0, "dropout after the position embeddings", Role.FREE, flag="drop", type=proper_fraction
    )
    drop_path_rate: float = setting(
        0.1,
        "stochastic depth rate of the last block, increasing linearly from 0",
        Role.FREE,
        flag="drop_path",
        type=proper_fraction,
    )
    fc_drop_rate: float = setting(0.0, "dropout before the head", Role.FREE, type=proper_fraction)
    use_checkpoint: bool = setting(False, "gradient checkpointing: recompute blocks to save memory", Role.FREE)
    checkpoint_num: int = setting(
        0, "gradient checkpointing: number of blocks to recompute, from the first", Role.FREE, type=non_negative_int
    )
    rms_norm: bool = setting(True, "RMSNorm instead of LayerNorm", Role.SIZE, by_name=True)
    mixer: str = setting("mamba", "mixer of the blocks (see models/mixers.py)", by_name=True, type=_known_mixer)
    d_state: int = setting(
        16, "size of the state of a channel", Role.SIZE, by_name=True, mixer=True, type=positive_int
    )
    elemental_residual: bool = setting(
        True, "start the state of each scan from its first input", by_name=True, mixer=True, factor="residual"
    )
    masked_backward: bool = setting(
        True, "hide a token's own input from the backward scan", by_name=True, mixer=True, factor="mask"
    )
    bimamba_type: str = setting(
        "v1",
        "v1: both directions share their projections; v2: each has its own",
        Role.SIZE,
        by_name=True,
        mixer=True,
        factor="type",
        choices=BIMAMBA_TYPES,
    )
    attentive_depth: int = setting(
        0,
        "blocks of an attentive pooler, whose query reads all tokens for the head; 0: the head reads the class token",
        Role.SIZE,
        type=non_negative_int,
    )
    scan_input: str = setting(
        "conv", "input of the scan; raw: as in the published code", by_name=True, mixer=True, choices=SCAN_INPUTS
    )
    dt_init: str = setting(
        "published",
        "initialisation of the step sizes (see models/initialisation.py)",
        Role.FREE,
        by_name=True,
        factor="dt_init",
        choices=DT_INITS,
    )
    backend: str | None = setting(
        None, "backend of the scan (default: the fastest available)", Role.FREE, by_name=True, mixer=True
    )
    time_pool: str = setting(
        "",
        "how a detector brings the times of a box's features together: their mean, or concat, side by side",
        Role.SIZE,
        detector=True,
        choices=("", *TIME_POOLS),
    )

    def __post_init__(self):
        for known in self.settings():
            known.check(getattr(self, known.name))
        object.__setattr__(self, "img_size", as_flag(as_pair(self.img_size)))
        if self.num_frames % self.tubelet_size:
            raise ValueError(f"num_frames {self.num_frames} must be a multiple of tubelet_size {self.tubelet_size}")
        if self.stem and self.in_chans != 3:
            raise ValueError(f"stem {self.stem} sees colour frames, so in_chans must be 3, not {self.in_chans}")

    @classmethod
    def settings(cls) -> list[Setting]:
        """Return the metadata of all fields, in order."""
        return [_setting_of(field) for field in dataclasses.fields(cls)]

    def values(self) -> dict[str, Any]:
        """Return all fields as plain values, as stored in checkpoints and accepted by the constructor."""
        return {known.name: getattr(self, known.name) for known in self.settings()}

    def mixer_values(self) -> dict[str, Any]:
        """Return the keywords of the mixer."""
        return {known.name: getattr(self, known.name) for known in self.settings() if known.mixer}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


class Configurable:
    """Base of the model: its class of configuration, known without importing the model and PyTorch.

    Attributes:
        config_class: Flags, checkpoints and their checks derive from its fields, so assigning a subclass of
            `ModelConfig` to `Configurable.config_class` adds its fields everywhere.
    """

    config_class: type[ModelConfig] = ModelConfig


def _setting_of(field: dataclasses.Field) -> Setting:
    """Return the metadata of a field; one declared without `setting` is a switch with a flag of the same name."""
    known = field.metadata.get("setting", Setting(default=field.default))
    read = type(field.default) if known.type is str and field.default is not None else known.type
    flag = field.name if known.flag == "" else known.flag
    return dataclasses.replace(known, name=field.name, flag=flag, type=read)
