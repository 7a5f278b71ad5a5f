"""How the batch of an optimiser update is made up of processes, videos per step and accumulated steps."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.settings import RunSettings

_logger = logging.getLogger(__name__)

FEW_STEPS = 1000  # fewer optimizer steps than this call for settings of their own


@dataclass(frozen=True)
class Batch:
    """Videos per process and step, steps per update, and videos per update over all processes."""

    batch_size: int
    update_freq: int
    total: int


def share_batch(global_batch: int, batch_size: int, processes: int, *, even: bool, fixed: bool = False) -> Batch:
    """Find steps of at most `batch_size` videos that make up `global_batch` on `processes`, else come near it.

    The largest step is taken that meets it exactly. Where none above half of `batch_size` does, the accumulation is
    the least possible and the step what comes nearest.

    Args:
        even: steps must be even (mixup pairs the clips of a step, which are as many as its videos).
        fixed: keep `batch_size`.
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
    """Find the batch_size and update_freq with which `processes` make up --global_batch; empty where that is not set.

    A given --update_freq is left alone, and so is a given --batch_size. What cannot be met is told with the learning
    rate that follows; it is scaled with the videos per update in any case (engines/optim.py).
    """
    wanted, size = flags["global_batch"], flags["batch_size"]
    if not wanted:
        return {}
    if "update_freq" in given:
        batch = Batch(size, flags["update_freq"], size * processes * flags["update_freq"])
    else:
        batch = share_batch(wanted, size, processes, even=_mixes_single_clips(flags), fixed="batch_size" in given)
    _logger.info(
        "%d video(s) x %d process(es) x %d accumulated batch(es) = %d videos per update",
        batch.batch_size,
        processes,
        batch.update_freq,
        batch.total,
    )
    if batch.total != wanted:
        _logger.warning(
            "the batch of %d videos per update becomes %d, and the learning rate is scaled with it: "
            "--lr %g means %.3g x its effective value at %d",
            wanted,
            batch.total,
            flags["lr"],
            batch.total / wanted,
            wanted,
        )
    return {"batch_size": batch.batch_size, "update_freq": batch.update_freq}


def fit_batch_to_list(settings: RunSettings, videos: int, processes: int) -> RunSettings:
    """Lower a recipe's batch where the training list has fewer videos than one update takes, and say so.

    Without a recipe or --global_batch nothing is changed, and the loader refuses a list that fills no step. With
    --steps the list is repeated instead.
    """
    _warn_of_few_steps(settings, videos, processes)
    share = videos // processes
    fills = share >= settings.batch_size * settings.update_freq
    if settings.steps or not settings.flags["global_batch"] or share == 0 or fills:
        return settings
    step = 2 if _mixes_single_clips(settings.flags) and share > 1 else 1
    size = min(settings.batch_size, share) // step * step
    fitted = settings.changed(batch_size=size, update_freq=max(1, share // size))
    _logger.warning(
        "the training list has %d videos and one update takes %d: it takes %d now, and the learning rate falls with "
        "it; a smaller --global_batch gives more updates an epoch",
        videos,
        settings.batch_size * settings.update_freq * processes,
        fitted.batch_size * fitted.update_freq * processes,
    )
    return fitted


def _warn_of_few_steps(settings: RunSettings, videos: int, processes: int) -> None:
    """Warn where settings for large data sets meet a short list: such runs end with one class for every video."""
    flags = settings.flags
    steps = settings.epochs * (videos // (processes * settings.batch_size * settings.update_freq))
    if settings.steps or flags.get("recipe") or flags.get("config") or flags.get("num_frames") == 1:
        return
    if steps < FEW_STEPS:
        _logger.warning(
            "%d training videos give %d optimizer steps in all, too few for the default learning rate, mixup and "
            "RandAugment: such a run tends to predict one class for every video; --recipe custom/small, or "
            "custom/finetune with published weights, sets these by the length of the list",
            videos,
            steps,
        )


def _mixes_single_clips(flags: Mapping[str, Any]) -> bool:
    """Whether a step must have an even number of videos, since mixup pairs its clips."""
    if "mixup" not in flags:
        return False
    mixes = flags["mixup"] > 0 or flags["cutmix"] > 0 or flags["cutmix_minmax"] is not None
    return mixes and flags["num_sample"] % 2 == 1
