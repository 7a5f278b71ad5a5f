"""The settings of a run: those of all components, which take their own part of them by its type."""

import argparse
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from common.flag_types import non_negative_int
from common.settings import flag, from_flags, option
from engines.distributed import DeviceSettings
from engines.logs import LogSettings
from engines.optim import AverageSettings, BatchSettings
from engines.parallel import ParallelSettings


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written, and from which one a run goes on."""

    save_ckpt_freq: int = option(
        0,
        "keep checkpoint-EPOCH.pth every so many epochs, beside checkpoint-latest.pth and checkpoint-best.pth; "
        "0 keeps none",
        non_negative_int,
    )
    save_every_steps: int = option(
        0,
        "write checkpoint-latest.pth every so many optimiser updates too, not only after an epoch; a run goes on from "
        "there in the middle of the epoch (default: 0, never)",
        non_negative_int,
    )
    override_checkpoint: tuple[str, ...] = option(
        (),
        "flags, such as masked_backward, that may contradict what the checkpoint says of its network (default: none, "
        "a contradiction is an error)",
        str,
        nargs="+",
        metavar="FLAG",
    )
    resume: str = option("", "checkpoint to go on from (see docs/engine.md)")
    auto_resume: bool = flag(
        True,
        "go on from checkpoint-latest.pth in --output_dir where there is one (default: on); --no_auto_resume starts "
        "afresh and moves files of an earlier run in --output_dir to earlier-N in it",
    )


@dataclass(frozen=True)
class TestSettings:
    """What is tested, and when."""

    __test__ = False  # pytest

    eval: bool = flag(False, "test only, no training (default: off)")
    test_best: bool | None = flag(
        None,
        "test checkpoint-best.pth (default: where the run has one); --no_test_best: the last epoch's weights",
    )
    disable_eval_during_finetuning: bool = flag(
        False, "do not validate after each epoch; there is then no checkpoint-best.pth (default: off)"
    )


@dataclass(frozen=True)
class RunSettings(
    LogSettings, DeviceSettings, ParallelSettings, BatchSettings, AverageSettings, CheckpointSettings, TestSettings
):
    """All settings of the engine; being each component's settings, they are passed to all of them as they are.

    Attributes:
        flags: all flags of the run as plain values, those of model and data too; what args.json and checkpoints
            record.
    """

    flags: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, flags: argparse.Namespace) -> Self:
        """Take the settings out of the flags of a run; what they lack, as a task may, is the default."""
        known = [field for field in dataclasses.fields(cls) if field.name != "flags"]
        lacking = {field.name: field.default for field in known if field.name not in flags}
        return from_flags(cls, flags, flags=plain_flags(flags), **lacking)

    def changed(self, **values: Any) -> Self:
        """Return the same settings with other values, in the record of the flags too."""
        return dataclasses.replace(self, **values, flags=self.flags | values)


def plain_flags(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the flags as a dict of plain values, which a checkpoint can hold without pickled code."""
    return {name: _plain(value) for name, value in vars(flags).items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)
