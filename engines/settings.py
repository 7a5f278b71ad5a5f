"""The settings of a run: those of all components of the engine together."""

import argparse
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from common.flag_types import non_negative_int, positive_int
from common.settings import flag, from_flags, option
from engines.distributed import DeviceSettings
from engines.logs import LogSettings
from engines.optim import AverageSettings, BatchSettings
from engines.parallel import ParallelSettings


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are saved, and which one a run resumes from."""

    save_ckpt_freq: int = option(
        0,
        "keep checkpoint-EPOCH.pth every N epochs, in addition to checkpoint-latest.pth and checkpoint-best.pth; "
        "0 keeps none",
        non_negative_int,
    )
    save_every_steps: int = option(
        0,
        "save checkpoint-latest.pth every N optimizer steps, so that a run can resume in the middle of an epoch "
        "(default: 0, only after an epoch)",
        non_negative_int,
    )
    override_checkpoint: tuple[str, ...] = option(
        (),
        "flags, such as masked_backward, that may contradict the model configuration in the checkpoint (default: "
        "none, a contradiction is an error)",
        str,
        nargs="+",
        metavar="FLAG",
    )
    resume: str = option("", "checkpoint to resume from (see docs/engine.md)")
    auto_resume: bool = flag(
        True,
        "resume from checkpoint-latest.pth in --output_dir if it exists (default: on); --no_auto_resume starts from "
        "scratch and moves the files of an earlier run in --output_dir to its subfolder earlier-N",
    )


@dataclass(frozen=True)
class TestSettings:
    """When and with which weights validation and test are run."""

    __test__ = False  # pytest

    eval: bool = flag(False, "test only, no training (default: off)")
    test_best: bool | None = flag(
        None,
        "test checkpoint-best.pth (default: where the run has one); --no_test_best: the last epoch's weights",
    )
    eval_freq: int = option(1, "epochs between two validations; the last epoch is validated, too", positive_int)
    disable_eval_during_finetuning: bool = flag(
        False, "do not validate after each epoch; no checkpoint-best.pth is written then (default: off)"
    )


@dataclass(frozen=True)
class RunSettings(
    LogSettings, DeviceSettings, ParallelSettings, BatchSettings, AverageSettings, CheckpointSettings, TestSettings
):
    """All settings of the engine. As a subclass of each component's settings, they can be passed to any component.

    Attributes:
        flags: all flags of the run as plain values, including those of model and data, as saved in args.json and in
            checkpoints.
    """

    flags: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, flags: argparse.Namespace) -> Self:
        """Create the settings from the flags of a run; flags that a task does not have take their default."""
        known = [field for field in dataclasses.fields(cls) if field.name != "flags"]
        lacking = {field.name: field.default for field in known if field.name not in flags}
        return from_flags(cls, flags, flags=plain_flags(flags), **lacking)

    def changed(self, **values: Any) -> Self:
        """Return a copy with some values replaced, also in `flags`."""
        return dataclasses.replace(self, **values, flags=self.flags | values)


def plain_flags(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the flags as a dict of plain values, which a checkpoint can contain without pickled code."""
    return {name: _plain(value) for name, value in vars(flags).items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value)
