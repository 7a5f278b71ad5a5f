"""The settings of a run: those of each component of the engine, and all together. PyTorch is not imported."""

import argparse
import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

from common.flag_types import (
    fraction,
    non_negative,
    non_negative_int,
    positive,
    positive_fraction,
    positive_int,
    proper_fraction,
    seed,
    whole_number,
)
from common.settings import flag, from_flags, option
from engines.trackers import TRACKERS

LAYER_DECAY_SCOPES = ("embeddings", "layers")


@dataclass(frozen=True)
class LogSettings:
    """Output folders of a run, and how often it logs."""

    output_dir: str = option(
        "",
        "folder for checkpoints, log.txt, args.json and results.json; nothing is written if empty (default: empty)",
    )
    log_dir: str = option("", "folder for TensorBoard files (default: --output_dir)")
    track: str = option(
        "", "experiment tracker beside TensorBoard: trackio, wandb or mlflow (default: none)", choices=TRACKERS
    )
    log_interval: int = option(20, "optimizer steps between two log lines", positive_int)


@dataclass(frozen=True)
class DeviceSettings:
    """Device, random seed and precision of a run."""

    seed: int = option(0, "random seed; the rank is added to it", seed)
    device: str = option("", "cpu, cuda or cuda:N (default: cuda if available)")
    bf16: bool | None = flag(
        None, "compute in bfloat16 with autocast; weights stay float32 (default: on CUDA only); --no_bf16: float32"
    )


@dataclass(frozen=True)
class ParallelSettings:
    """Parallelisation and compilation of the model."""

    parallel: str = option(
        "ddp",
        "ddp: each process holds the whole model; fsdp: weights, gradients and moments are sharded over the processes "
        "(FSDP2). Checkpoints are the same",
        choices=("ddp", "fsdp"),
    )
    dist_timeout: int = option(600, "seconds that a process waits for the others before the run fails", positive_int)
    compile: bool = flag(False, "compile the model with torch.compile (default: off)")
    cuda_graph: bool = flag(
        False,
        "capture the optimizer step as one CUDA graph, for small batches, whose many kernels the host launches too "
        "slowly (default: off; see docs/gpu.md)",
    )


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer, gradient accumulation and gradient clipping."""

    opt: str = option("adamw", "optimizer, by timm's name")
    opt_eps: float = option(1e-8, "epsilon of the optimizer", positive)
    opt_betas: tuple[float, ...] = option((0.9, 0.999), "betas of Adam-like optimizers", proper_fraction, nargs="+")
    momentum: float = option(0.9, "momentum of SGD-like optimizers", fraction)
    weight_decay: float = option(
        0.05, "weight decay, except for biases, norms and the model's exclusions", non_negative
    )
    layer_decay: float = option(0.75, "learning rate factor per layer below the head; 1: none", positive_fraction)
    layer_decay_scope: str = option(
        "embeddings",
        "parameters that --layer_decay applies to: only patch, position and class embeddings, as in all published "
        "runs, or every layer by its depth, as in VideoMAE",
        choices=LAYER_DECAY_SCOPES,
    )
    clip_grad: float | None = option(
        None, "maximum gradient norm; larger gradients are scaled down to it (default: no clipping)", positive
    )
    update_freq: int = option(1, "accumulated batches per optimizer step", positive_int)
    max_skipped_steps: int = option(
        10,
        "optimizer steps of a run that may be skipped because loss or gradient are not finite, each with a report in "
        "nonfinite-STEP.json; one more stops the run",
        non_negative_int,
    )


@dataclass(frozen=True)
class ScheduleSettings:
    """Number of epochs and learning rates."""

    epochs: int = option(30, "number of epochs", non_negative_int)
    steps: int = option(
        0,
        "optimizer steps in total, divided into --epochs equal parts, each of which repeats or shortens the training "
        "list as needed (default: 0, one epoch is one pass over the list)",
        non_negative_int,
    )
    start_epoch: int = option(0, "first epoch, counted from 0; overridden by a resumed checkpoint", non_negative_int)
    lr: float = option(
        1e-3,
        "peak learning rate for --lr_base clips per step; it is multiplied by "
        "batch_size x processes x update_freq x num_sample / lr_base",
        non_negative,
    )
    min_lr: float = option(1e-6, "learning rate at the end of the cosine schedule, scaled like --lr", non_negative)
    warmup_lr: float = option(1e-6, "learning rate of the first step, scaled like --lr", non_negative)
    lr_base: float = option(256, "clips per step that --lr refers to; the image recipes use 512", positive)
    lr_absolute: bool = flag(
        False, "use --lr, --min_lr and --warmup_lr as given, whatever the clips per step (default: off)"
    )
    scale_min_lr: bool = flag(True, "also scale --min_lr and --warmup_lr; the image recipes do not (default: on)")
    warmup_epochs: float = option(5, "epochs of linear warm-up", non_negative)
    warmup_steps: int = option(-1, "optimizer steps of warm-up; above 0 overrides --warmup_epochs", whole_number(-1))


@dataclass(frozen=True)
class AverageSettings:
    """The EMA of the weights."""

    model_ema: bool = flag(False, "keep an EMA of the weights, which is validated and tested too (default: off)")
    model_ema_decay: float = option(0.9999, "decay of the EMA per step", proper_fraction)
    model_ema_warmup: bool = flag(
        False, "let the decay grow from 0, for runs of less than about 50,000 steps (default: off)"
    )


@dataclass(frozen=True)
class BatchSettings(OptimizerSettings, ScheduleSettings):
    """The settings that determine the clips per optimizer step, and with them the learning rates.

    Attributes:
        batch_size: videos per process and forward pass.
        num_sample: clips per video.
    """

    batch_size: int = 1
    num_sample: int = 1


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
class DetectionTestSettings:
    """How the scores of boxes are evaluated."""

    person_score: str = option(
        "multiply",
        "multiply the scores of a box by the score of the person detector, as in VideoMAE, or ignore it, as in "
        "SlowFast",
        choices=("multiply", "ignore"),
    )
    max_rows_per_frame: int = option(
        0,
        "number of rows with the highest scores to evaluate per second; 50 in AVA's official script (default: 0 for "
        "all, as in SlowFast and VideoMAE)",
        non_negative_int,
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
