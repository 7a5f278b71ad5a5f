"""One training epoch, for images (clips of one frame) and videos alike."""

import logging
import math
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import NoReturn

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from engines.distributed import Context, gather_objects
from engines.logs import RunLog, progress
from engines.mixing import ClipMixup
from engines.state import TrainingState

_logger = logging.getLogger(__name__)


@dataclass
class EpochResult:
    """What an epoch of training has to tell, the same on all ranks.

    Attributes:
        metrics: loss (mean), lr (of the last update), grad_norm (mean, before clipping), clips_per_second (all ranks),
            data_time (share of the time spent waiting for the loader, 0 to 1).
        unreadable: path of each video that could not be read -> why. Another video took its place.
    """

    metrics: dict[str, float]
    unreadable: dict[str, str] = field(default_factory=dict)


def updates_per_epoch(loader, update_freq: int) -> int:
    """Return the optimiser updates in one epoch; batches that do not fill an update are left out.

    Raises:
        ValueError: not even one update.
    """
    updates = len(loader) // update_freq
    if updates == 0:
        raise ValueError(
            f"the training list gives {len(loader)} batch(es) per process, and one update takes "
            f"{update_freq}: lower --batch_size or --update_freq, or use fewer processes"
        )
    return updates


def train_one_epoch(
    state: TrainingState,
    loader,
    criterion: nn.Module,
    args,
    context: Context,
    run_log: RunLog,
    mixup: ClipMixup | None = None,
) -> EpochResult:
    """Train `state` for one epoch: args.update_freq batches forward and backward, then one optimiser update.

    Args:
        state: changed in place (weights, average, optimiser, `step`); `epoch` is left to the caller.
        loader: gives batches {"clips": (N, C, T, H, W), "labels": (N,), "indices": (N,), "unreadable": [...]}; its
            dataset has `records`.
        criterion: loss of logits (N, classes) and labels (N,), or of soft targets (N, classes) with `mixup`.
        args: update_freq, clip_grad, bf16, log_interval, epochs.
        context: this process.
        run_log: gets TensorBoard scalars.
        mixup: mixes clips and makes the soft targets; None for none.
    Raises:
        RuntimeError: the loss or the gradient is not finite; the message names the update's files.
    """
    state.parallel.train()
    updates = state.steps_per_epoch
    batches = iter(islice(loader, updates * args.update_freq))
    totals = {"loss": 0.0, "grad_norm": 0.0, "clips": 0, "data_seconds": 0.0}
    unreadable: dict[str, str] = {}
    start = time.perf_counter()
    bar = progress(range(updates), desc=f"Epoch {state.epoch}", enabled=context.is_main)
    for update in bar:
        waited = time.perf_counter()
        batch_group = list(islice(batches, args.update_freq))
        totals["data_seconds"] += time.perf_counter() - waited
        _note_unreadable(batch_group, loader.dataset.records, unreadable)
        loss, norm = _update(state, batch_group, criterion, args, context, mixup, loader.dataset.records)
        totals["loss"] += loss
        totals["grad_norm"] += norm
        totals["clips"] += sum(len(batch["clips"]) for batch in batch_group)
        lr = max(group["lr"] for group in state.optimizer.param_groups)
        state.step += 1
        if state.ema is not None:
            state.ema.update(state.model, step=state.step)
        state.scheduler.step_update(state.step)
        bar.set_postfix(loss=f"{loss:.3f}", lr=f"{lr:.1e}", refresh=False)
        if (update + 1) % args.log_interval == 0 or update + 1 == updates:
            run_log.scalars("train", {"loss": loss, "lr": lr, "grad_norm": norm}, state.step)
            if bar.disable:
                _logger.info(
                    "epoch %d/%d update %d/%d loss %.4f lr %.3g grad norm %.3g, %.1f clips/s",
                    state.epoch,
                    args.epochs,
                    update + 1,
                    updates,
                    loss,
                    lr,
                    norm,
                    totals["clips"] * context.world_size / (time.perf_counter() - start),
                )
    return _merge_ranks(totals, lr, unreadable, updates, time.perf_counter() - start)


def _update(
    state: TrainingState,
    batch_group: list[dict],
    criterion: nn.Module,
    args,
    context: Context,
    mixup: ClipMixup | None,
    records,
) -> tuple[float, float]:
    """Do one optimiser update from `batch_group`; return (mean loss, gradient norm before clipping)."""
    state.optimizer.zero_grad(set_to_none=True)
    losses = []
    for number, batch in enumerate(batch_group):
        clips = batch["clips"].to(context.device, non_blocking=True)
        targets = batch["labels"].to(context.device, non_blocking=True)
        if mixup is not None:
            clips, targets = mixup(clips, targets)
        with _gradient_sync(state.parallel, on=number + 1 == len(batch_group)):
            with torch.autocast(context.device.type, dtype=torch.bfloat16, enabled=bool(args.bf16)):
                logits = state.parallel(clips)
            loss = criterion(logits.float(), targets) / len(batch_group)
            loss.backward()
        losses.append(loss.detach())
    gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
    norm = get_total_norm(gradients)
    # One transfer from the device per update, for all numbers: each one makes the host wait for the GPU.
    *loss_values, norm_value = torch.stack([*losses, norm.to(losses[0])]).tolist()
    if not all(map(math.isfinite, [*loss_values, norm_value])):
        _stop_not_finite(loss_values, norm_value, batch_group, records, state, context)
    if args.clip_grad is not None:
        clip_grads_with_norm_(state.model.parameters(), args.clip_grad, norm)
    state.optimizer.step()
    return sum(loss_values), norm_value


def _stop_not_finite(
    loss_values: list[float], norm: float, batch_group: list[dict], records, state: TrainingState, context: Context
) -> NoReturn:
    """Raise the RuntimeError that names the files whose loss is not finite, or else all files of the update."""
    guilty = [batch for batch, loss in zip(batch_group, loss_values, strict=True) if not math.isfinite(loss)]
    where = f"epoch {state.epoch}, update {state.step}, process {context.rank}"
    what = f"the loss is {sum(loss_values)} and the gradient norm {norm}"
    if not guilty and context.world_size > 1:
        what += " (the gradient is of all processes: another one may name the video)"
    raise RuntimeError(
        f"{where}: {what}; the weights were not updated. Look at these files, lower --lr, or limit the "
        f"gradient with --clip_grad: {', '.join(_paths(guilty or batch_group, records))}"
    )


def _gradient_sync(model: nn.Module, *, on: bool):
    """Exchange gradients between processes only in the last backward pass of an update."""
    if isinstance(model, DistributedDataParallel) and not on:
        return model.no_sync()
    return nullcontext()


def _paths(batch_group: Iterable[dict], records) -> list[str]:
    """Return the files behind the batches, each once, in order."""
    indices = [int(index) for batch in batch_group for index in batch["indices"]]
    return list(dict.fromkeys(str(records[index].path) for index in indices))


def _note_unreadable(batch_group: Iterable[dict], records, unreadable: dict[str, str]) -> None:
    """Add the batches' unreadable videos to `unreadable`, path -> message."""
    for batch in batch_group:
        for index, message in batch.get("unreadable", ()):
            unreadable[str(records[int(index)].path)] = message


def _merge_ranks(
    totals: dict[str, float], lr: float, unreadable: dict[str, str], updates: int, seconds: float
) -> EpochResult:
    """Put the epoch's sums of all ranks together."""
    ranks = gather_objects((totals, unreadable, seconds))
    seconds = max(rank_seconds for _, _, rank_seconds in ranks)
    metrics = {
        "loss": sum(rank["loss"] for rank, _, _ in ranks) / (updates * len(ranks)),
        "lr": lr,
        "grad_norm": sum(rank["grad_norm"] for rank, _, _ in ranks) / (updates * len(ranks)),
        "clips_per_second": sum(rank["clips"] for rank, _, _ in ranks) / seconds,
        "data_time": sum(rank["data_seconds"] / rank_seconds for rank, _, rank_seconds in ranks) / len(ranks),
    }
    merged: dict[str, str] = {}
    for _, rank_unreadable, _ in ranks:
        merged.update(rank_unreadable)
    return EpochResult(metrics, merged)
