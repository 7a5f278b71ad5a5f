"""Flags of the losses, and which of them fit the task. PyTorch is not imported, so a misfit is refused at once."""

import argparse
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from common.flag_types import fraction, non_negative, proper_fraction
from common.settings import add_options, as_typed, option
from datasets.labels import LabelTask

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossSettings:
    """Mixing, label smoothing, class weights and losses; the defaults are those of the published runs.

    Attributes:
        sampler: sampler of the training list, a flag of the data; "balanced" excludes balanced class weights.
    """

    mixup: float = option(0.8, "mixup alpha, 0 for none", non_negative)
    cutmix: float = option(1.0, "cutmix alpha, 0 for none", non_negative)
    cutmix_minmax: tuple[float, float] | None = option(
        None,
        "smallest and largest side of the cutmix box as a fraction of the frame; enables cutmix and overrides its "
        "alpha (default: unset)",
        fraction,
        nargs=2,
        metavar=("MIN", "MAX"),
    )
    mixup_prob: float = option(1.0, "probability of mixing a batch", fraction)
    mixup_switch_prob: float = option(0.5, "probability of cutmix if both are on", fraction)
    mixup_mode: str = option(
        "batch", "draw the mixing ratio per batch, pair of clips or clip", choices=("batch", "pair", "elem")
    )
    smoothing: float = option(0.1, "label smoothing", proper_fraction)
    class_weights: str = option(
        "none",
        "balanced: weight the loss of each class by the inverse of its share of the training list",
        choices=("none", "balanced"),
    )
    multilabel_loss: str = option(
        "bce",
        "loss of --task multilabel: binary cross entropy, or asymmetric, which hardly counts easy negatives (arXiv "
        "2009.14119)",
        choices=("bce", "asymmetric"),
    )
    regression_loss: str = option(
        "mse",
        "loss of --task regression, of targets standardised by the training list",
        choices=("mse", "huber", "l1"),
    )
    sampler: str = "uniform"


@dataclass(frozen=True)
class MergeSettings:
    """How the views of a clip are merged."""

    view_merge: str = option(
        "mean", "score of a class of --task multilabel over the views of a clip", choices=("mean", "max")
    )


PLAIN_LOSS = LossSettings(mixup=0.0, cutmix=0.0, smoothing=0.0)

_OWNERS: dict[str, LabelTask] = {
    "multilabel_loss": "multilabel",
    "view_merge": "multilabel",
    "regression_loss": "regression",
    "temporal_controls": "classification",
}
_OFF = {"mixup": 0.0, "cutmix": 0.0, "cutmix_minmax": None, "smoothing": 0.0, "class_weights": "none"}
_OFF |= {"sampler": "uniform"}
_WITHOUT: dict[LabelTask, tuple[Collection[str], str]] = {
    "classification": ((), ""),
    "multilabel": (
        ("class_weights", "sampler"),
        "a clip may have several classes, so none is balanced alone; --multilabel_loss asymmetric helps rare ones",
    ),
    "regression": (_OFF, "its targets are numbers, not classes"),
}


def add_loss_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `LossSettings` and `MergeSettings` to `parser`."""
    group = parser.add_argument_group("loss: mixing, smoothing, and what --task needs")
    add_options(group, LossSettings)
    add_options(group, MergeSettings)


def refuse_misfits(task: LabelTask, typed: Mapping[str, Any]) -> None:
    """Raise a ValueError that names a flag which has no meaning for the task.

    Args:
        task: Task of the run.
        typed: Flags of the command line and their values.
    """
    for name in typed:
        owner = _OWNERS.get(name, task)
        if owner != task:
            raise ValueError(f"--{name} belongs to --task {owner}; this run has --task {task}")
    names, reason = _WITHOUT[task]
    for name in names:
        if name in typed and typed[name] != _OFF[name]:
            raise ValueError(f"--{name} {as_typed(typed[name])} does not fit --task {task}: {reason}; omit it")


def switch_off_misfits(flags: dict[str, Any]) -> None:
    """Switch off what has no meaning for the task, and log it: defaults and recipes are those of classification."""
    names, reason = _WITHOUT[flags["task"]]
    wrong = {name: flags[name] for name in names if flags.get(name, _OFF[name]) != _OFF[name]}
    if wrong:
        words = ", ".join(f"--{name} {as_typed(value)}" for name, value in wrong.items())
        _logger.info("--task %s switches off %s: %s", flags["task"], words, reason)
        flags.update({name: _OFF[name] for name in wrong})
