"""Composition of the global batch: processes, videos per forward pass and gradient accumulation."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.settings import RunSettings

_logger = logging.getLogger(__name__)

FEW_STEPS = 1000  # fewer optimizer steps than this call for settings of their own
_OF_CLASSIFIERS = (
    "learning rate, mixup and RandAugment: such a run tends to predict one class for every video; --recipe "
    "custom/hybrid or custom/small, or custom/finetune with published weights, sets these by the length of the list"
)


@dataclass(frozen=True)
class Batch:
    """The batch of one optimizer step.

    Attributes:
        batch_size: videos per process and forward pass.
        update_freq: accumulated batches per optimizer step.
        total: videos per optimizer step over all processes.
    """

    batch_size: int
    update_freq: int
    total: int


def share_batch(global_batch: int, batch_size: int, processes: int, *, even: bool, fixed: bool = False) -> Batch:
    """Split `global_batch` over the processes, exactly if possible, otherwise as closely as possible.

    The largest batch size is chosen that gives `global_batch` exactly. If none above half of `batch_size` does, use
    the fewest accumulated batches and the batch size that comes closest.

    Args:
        global_batch: desired videos per optimizer step.
        batch_size: largest number of videos per process and forward pass.
        processes: number of processes.
        even: the batch size must be even, because mixup pairs the clips of a batch.
        fixed: use exactly `batch_size`.
    """
    step = 2 if even else 1
    largest = batch_size if fixed else max(step, min(batch_size, math.ceil(global_batch / processes)))
    for size in [largest] if fixed else range(largest // step * step, largest // 2, -step):
        if global_batch % (size * processes) == 0:
            return Batch(size, global_batch // (size * processes), global_batch)
    if fixed:
        steps = max(1, round(global_batch / (batch_size * processes)))
        return Batch(batch_size, steps, batch_size * processes * steps)
    steps = math.ceil(global_batch / (largest * processes))
    size = max(step, round(global_batch / (processes * steps) / step) * step)
    return Batch(size, steps, size * processes * steps)


def fit_batch(flags: Mapping[str, Any], given: set[str], processes: int) -> dict[str, int]:
    """Choose the batch_size and update_freq that give --global_batch on `processes`; empty if it is not set.

    An explicit --update_freq or --batch_size is kept. If the global batch cannot be met exactly, a warning gives the
    effective learning rate, which is always scaled with the clips per optimizer step (engines/optim.py).

    Args:
        flags: all flags of the run.
        given: names of the flags that were set explicitly.
        processes: number of processes.

    Returns:
        the flags to change.
    """
    wanted, size = flags["global_batch"], flags["batch_size"]
    if not wanted:
        return {}
    if "update_freq" in given:
        batch = Batch(size, flags["update_freq"], size * processes * flags["update_freq"])
    else:
        batch = share_batch(wanted, size, processes, even=_mixes_single_clips(flags), fixed="batch_size" in given)
    _logger.info(
        "%d video(s) x %d process(es) x %d accumulated batch(es) = %d videos per optimizer step",
        batch.batch_size,
        processes,
        batch.update_freq,
        batch.total,
    )
    if batch.total != wanted:
        _logger.warning(
            "the global batch of %d videos becomes %d, and the learning rate is scaled with it: "
            "--lr %g gives %.3g x the learning rate of a batch of %d",
            wanted,
            batch.total,
            flags["lr"],
            batch.total / wanted,
            wanted,
        )
    return {"batch_size": batch.batch_size, "update_freq": batch.update_freq}


def check_mixing(flags: Mapping[str, Any]) -> None:
    """Raise the ValueError that names the remedies where mixup would meet an odd number of clips in a step."""
    if _mixes_single_clips(flags) and flags["batch_size"] % 2:
        raise ValueError(
            f"--batch_size {flags['batch_size']} with --num_sample {flags['num_sample']}: mixup pairs the clips of a "
            "step, and their number is odd; change one of the two, or use --mixup 0 --cutmix 0"
        )


def fit_batch_to_list(settings: RunSettings, videos: int, processes: int) -> RunSettings:
    """Reduce a recipe's batch, with a warning, if the training list has fewer videos than one optimizer step needs.

    Without a recipe or --global_batch nothing changes, and the dataloader rejects a list that does not fill a step.
    With --steps the list is repeated instead.

    Args:
        settings: of the run.
        videos: length of the training list.
        processes: number of processes.

    Returns:
        the settings to train with.

    Raises:
        ValueError: each process has one video, and mixup pairs the clips of a step.
    """
    _warn_of_few_steps(settings, videos, processes)
    share = videos // processes
    fills = share >= settings.batch_size * settings.update_freq
    if settings.steps or not settings.flags["global_batch"] or share == 0 or fills:
        return settings
    paired = _mixes_single_clips(settings.flags)
    if paired and share == 1:
        raise ValueError(
            f"the training list has {videos} videos for {processes} process(es), and mixup pairs the clips of a step: "
            "take fewer processes, --num_sample 2, or --mixup 0 --cutmix 0"
        )
    step = 2 if paired else 1
    size = min(settings.batch_size, share) // step * step
    fitted = settings.changed(batch_size=size, update_freq=max(1, share // size))
    _logger.warning(
        "the training list has %d videos, fewer than the %d of one optimizer step: a step now uses %d, and the "
        "learning rate is scaled down with it; a smaller --global_batch gives more steps per epoch",
        videos,
        settings.batch_size * settings.update_freq * processes,
        fitted.batch_size * fitted.update_freq * processes,
    )
    return fitted


def _warn_of_few_steps(settings: RunSettings, videos: int, processes: int) -> None:
    """Warn where settings for large data sets meet a short list, from which such runs learn nothing."""
    flags = settings.flags
    steps = settings.epochs * (videos // (processes * settings.batch_size * settings.update_freq))
    if settings.steps or flags.get("recipe") or flags.get("config") or flags.get("num_frames") == 1:
        return
    if steps < FEW_STEPS:
        _logger.warning(
            "%d training videos give %d optimizer steps in all, too few for the default %s",
            videos,
            steps,
            _OF_CLASSIFIERS if "mixup" in flags else "learning rate: raise --epochs, or --lr",
        )


def _mixes_single_clips(flags: Mapping[str, Any]) -> bool:
    """Return whether the batch size must be even, because mixup pairs clips and each video gives an odd number."""
    if "mixup" not in flags:
        return False
    mixes = flags["mixup"] > 0 or flags["cutmix"] > 0 or flags["cutmix_minmax"] is not None
    return mixes and flags["num_sample"] % 2 == 1
