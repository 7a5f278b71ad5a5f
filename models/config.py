"""What a network is: every size and switch once. Flags, constructor, checkpoints and their checks derive from here.

A new switch is one field of `ModelConfig`, and its use in the model or, with `mixer=True`, a keyword of the mixer.
"""

import argparse
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

from common.flag_types import non_negative_int, positive_int, proper_fraction
from mamba.mamba_ssm.modules.mamba_simple import BIMAMBA_TYPES
from mamba.mamba_ssm.ops.selective_scan.reference import SCAN_INPUTS
from models.initialisation import DT_INITS
from models.mixers import MIXERS

TIME_POOLS = ("mean", "concat")
"""How an action detector (models/detection.py) brings times together; "" is a classifier of clips."""


class Role(Enum):
    """What a field means to a checkpoint."""

    SIZE = "the shapes of the tensors tell it; other weights are adapted or refused when they are loaded"
    SWITCH = "no tensor tells it, and weights mean something only with the value that they were trained with"
    FREE = "of the training or the machine: weights serve with any value"


@dataclass(frozen=True)
class Setting:
    """A field of a `ModelConfig`, and what derives from it.

    Attributes:
        name: of the field.
        default: of the field.
        help: what it does, for the command line and the reader.
        role: what it means to a checkpoint.
        flag: destination of its flag; empty for the name of the field.
        flagged: whether it has a flag.
        from_data: the flag is one of `datasets.arguments`.
        by_name: a registered model may have a value of its own, so the flag's default is None: as registered.
        mixer: it is a keyword of the mixer too.
        detector: of action detectors alone, and so is its flag.
        factor: its name in the ablation; empty for a field that is not ablated.
        choices: the values that there are; empty for any.
        type: reads a value off the command line, and refuses nonsense.
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
    type: Callable[[str], Any] = str

    def check(self, value: Any) -> None:
        """Raise the ValueError that names the field, unless `value` is one of its values."""
        if value is None and self.default is None:
            return
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} must be one of {self.choices}, got {value!r}")
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise ValueError(f"{self.name} must be True or False, got {value!r}")
            return
        try:
            self.type(str(value))
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{self.name} {value!r}: {error}") from error


def setting(default: Any, help: str = "", role: Role = Role.SWITCH, **derived: Any) -> Any:
    """A field of a `ModelConfig`; `derived` are attributes of `Setting`."""
    known = Setting(default=default, help=help, role=role, **derived)
    return dataclasses.field(default=default, metadata={"setting": known})


def _known_mixer(name: str) -> str:
    if name not in MIXERS:
        raise argparse.ArgumentTypeError(f"there is no such mixer; known are: {', '.join(MIXERS)}")
    return name


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The sizes and switches of a `VideoMambaPro`, each with its meaning, its flag and its role in a checkpoint.

    Raises:
        ValueError: a value is none of its field's, or two contradict each other.
    """

    name: str = setting("", "registered name; empty for sizes of one's own", Role.FREE, flagged=False)
    img_size: int = setting(
        224, "height and width of the frames, pixels", Role.SIZE, flag="input_size", from_data=True, type=positive_int
    )
    patch_size: int = setting(16, "side of a patch, pixels", Role.SIZE, by_name=True, type=positive_int)
    depth: int = setting(24, "number of blocks", Role.SIZE, by_name=True, type=positive_int)
    embed_dim: int = setting(192, "width of the tokens", Role.SIZE, by_name=True, type=positive_int)
    in_chans: int = setting(3, "channels of a frame", Role.SIZE, flagged=False, type=positive_int)
    num_classes: int = setting(
        1000,
        "outputs of the head; 0 leaves it out",
        Role.SIZE,
        flag="nb_classes",
        from_data=True,
        type=non_negative_int,
    )
    num_frames: int = setting(
        8, "frames of a clip, a multiple of the tubelet size", Role.SIZE, from_data=True, type=positive_int
    )
    tubelet_size: int = setting(1, "frames of a tubelet", Role.SIZE, type=positive_int)
    drop_rate: float = setting(0.0, "dropout after the positions", Role.FREE, flag="drop", type=proper_fraction)
    drop_path_rate: float = setting(
        0.1,
        "stochastic depth rate of the last block, linear from 0",
        Role.FREE,
        flag="drop_path",
        type=proper_fraction,
    )
    fc_drop_rate: float = setting(0.0, "dropout before the head", Role.FREE, type=proper_fraction)
    use_checkpoint: bool = setting(False, "gradient checkpointing: recompute blocks to save memory", Role.FREE)
    checkpoint_num: int = setting(
        0, "number of blocks to recompute, counted from the first", Role.FREE, type=non_negative_int
    )
    rms_norm: bool = setting(True, "RMSNorm, else LayerNorm", Role.SIZE, by_name=True)
    mixer: str = setting("mamba", "mixer of the blocks (see models/mixers.py)", by_name=True, type=_known_mixer)
    d_state: int = setting(
        16, "entries of the state of a channel", Role.SIZE, by_name=True, mixer=True, type=positive_int
    )
    elemental_residual: bool = setting(
        True, "each scan starts from its first input", by_name=True, mixer=True, factor="residual"
    )
    masked_backward: bool = setting(
        True, "the backward scan does not read the token itself", by_name=True, mixer=True, factor="mask"
    )
    bimamba_type: str = setting(
        "v1", "v1 shares the projections of both directions, v2 has them twice", Role.SIZE,
        by_name=True, mixer=True, factor="type", choices=BIMAMBA_TYPES,
    )  # fmt: skip
    scan_input: str = setting(
        "conv", "what the scan reads; raw as the published code ran", by_name=True, mixer=True, choices=SCAN_INPUTS
    )
    dt_init: str = setting(
        "published", "initial step sizes (see models/initialisation.py)", Role.FREE,
        by_name=True, factor="dt_init", choices=DT_INITS,
    )  # fmt: skip
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
        if self.num_frames % self.tubelet_size:
            raise ValueError(f"num_frames {self.num_frames} must be a multiple of tubelet_size {self.tubelet_size}")

    @classmethod
    def settings(cls) -> list[Setting]:
        """All fields, in their order."""
        return [_setting_of(field) for field in dataclasses.fields(cls)]

    def values(self) -> dict[str, Any]:
        """All fields as plain values, which a checkpoint holds and the constructor takes."""
        return {known.name: getattr(self, known.name) for known in self.settings()}

    def mixer_values(self) -> dict[str, Any]:
        """The keywords of the mixer."""
        return {known.name: getattr(self, known.name) for known in self.settings() if known.mixer}

    def replace(self, **changes: Any) -> Self:
        """The same with some fields changed."""
        return dataclasses.replace(self, **changes)


def _setting_of(field: dataclasses.Field) -> Setting:
    """What is known of a field; one that is declared without `setting` is a switch with a flag of its name."""
    known = field.metadata.get("setting", Setting(default=field.default))
    read = type(field.default) if known.type is str and field.default is not None else known.type
    flag = field.name if known.flag == "" else known.flag
    return dataclasses.replace(known, name=field.name, flag=flag, type=read)
