"""Settings of the model, its initial weights, its teacher and masks, and their command-line flags.

PyTorch is not imported, so flags are known at once.
"""

import argparse
from dataclasses import dataclass
from typing import Any, Self

from common.flag_types import proper_fraction
from common.settings import add_options, flag, option
from models.config import TIME_POOLS, Configurable, Setting

DEFAULT_MODEL = "videomambapro_tiny"
STEM, ALL = "stem", "all"  # values of --freeze
MASK_TYPES = ("attention", "random", "tube", "tube_row", "random_row")


def frozen_part(text: str) -> str:
    """Check a value of --freeze: stem, a number of blocks, or all."""
    if text not in ("", STEM, ALL) and not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be {STEM}, a number of blocks above 0, or {ALL}, not {text}")
    return text


@dataclass(frozen=True)
class ModelSettings:
    """Settings of the model of a run.

    Attributes:
        name: Name of a registered model.
        fields: Fields of its `ModelConfig` that differ from the registered values.
    """

    name: str
    fields: dict[str, Any]

    @classmethod
    def from_flags(cls, flags: argparse.Namespace) -> Self:
        """Take the name and the given fields from parsed flags."""
        given = {setting.name: getattr(flags, setting.flag, None) for setting in flagged_settings()}
        return cls(flags.model, {name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class WeightSettings:
    """Settings of the initial weights of a run.

    Attributes:
        eval: Whether the run only tests, so the head must come from the file as well.
        resume: Checkpoint to resume from, which contains all weights.
        override_checkpoint: Flags of switches that may differ from the file.
    """

    finetune: str = option("", "checkpoint to fine-tune, .pth or .safetensors", metavar="FILE")
    allow_random: bool = flag(False, "initialise tensors missing in --finetune randomly instead of stopping")
    delete_head: bool = flag(False, "ignore the head of --finetune, even if it has the right number of classes")
    freeze: str = option(
        "",
        "layers that are not trained: stem (embeddings and positions; the model of --stem never is), N (the first N "
        "blocks, too) or all (everything but the head; default: none)",
        frozen_part,
        metavar="stem|N|all",
    )
    stem_weights: str = option(
        "", "weights of --stem under timm's names (default: timm's download); a checkpoint has them", metavar="FILE"
    )
    eval: bool = False
    resume: str = ""
    override_checkpoint: tuple[str, ...] = ()


@dataclass(frozen=True)
class TeacherSettings:
    """The teacher of masked pretraining, and how it is asked."""

    teacher: str = option(
        "",
        "weights of the teacher: CLIP's or any timm vision transformer's, or a checkpoint of this family",
        metavar="FILE",
    )
    teacher_model: str = option(
        "",
        "timm's name of the teacher, which no file tells (default: that of OpenAI's CLIP for files with its names)",
        names=["clip_teacher"],
        metavar="NAME",
    )
    teacher_norm: str = option(
        "own",
        "how the teacher's pixels are normalised: by its own mean and standard deviation, or by ImageNet's like the "
        "student's, as published",
        choices=("own", "imagenet"),
    )
    teacher_final_norm: bool = flag(
        True, "apply the teacher's last norm to its tokens (default: on); the published code leaves it out"
    )


@dataclass(frozen=True)
class MaskSettings:
    """Which patches the student of masked pretraining sees."""

    mask_type: str = option(
        "attention",
        "how visible patches are drawn: by the teacher's attention, random anywhere in the clip, tube (the same "
        "places in all frames), tube_row (rows of each frame) or random_row (rows of the clip)",
        choices=MASK_TYPES,
    )
    mask_ratio: float = option(0.8, "share of the patches that the student does not see", proper_fraction)


def add_model_arguments(parser: argparse.ArgumentParser, *, detector: bool = False) -> None:
    """Add the flags that `build_model` and `load_finetune_checkpoint` read.

    Flags of the model are derived from the fields of `Configurable.config_class`. Without a flag, the value in the
    checkpoint applies, or else that of the registered model.

    Args:
        parser: Parser to extend.
        detector: Add the flags of action detectors, which make `build_model` build one.
    """
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME", help="a registered model (default: %(default)s)"
    )
    named = parser.add_argument_group("method and sizes (default: those of the registered model)")
    for setting in flagged_settings():
        if not setting.from_data and not setting.detector:
            _add_flag(named if setting.by_name else group, setting)

    if detector:
        (time_pool,) = (setting for setting in flagged_settings() if setting.detector)
        text = f"{time_pool.help} (default: %(default)s)"
        group.add_argument(f"--{time_pool.flag}", choices=TIME_POOLS, default=TIME_POOLS[0], help=text)
    add_options(parser.add_argument_group("initial weights"), WeightSettings)


def add_distillation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flag of self-distillation; its weights are those of stored teachers."""
    group = parser.add_argument_group("self-distillation")
    group.add_argument(
        "--teacher", default="", metavar="FILE", help="checkpoint of a smaller model whose tokens are distilled"
    )


def flagged_settings() -> list[Setting]:
    """Return the fields of the model configuration that have a flag, here or among the data flags."""
    return [setting for setting in Configurable.config_class.settings() if setting.flagged]


def _add_flag(group, setting: Setting) -> None:
    default = None if setting.by_name else setting.default
    text = setting.help if default is None or isinstance(default, bool) else f"{setting.help} (default: %(default)s)"
    if isinstance(setting.default, bool):
        kind: dict = dict(action=argparse.BooleanOptionalAction)
    elif setting.choices:
        kind = dict(choices=setting.choices)
    else:
        kind = dict(type=setting.type)
    group.add_argument(f"--{setting.flag}", default=default, help=text, **kind)
