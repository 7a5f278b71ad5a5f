"""One training epoch, for images (clips of one frame) and videos alike."""

import logging
import time
from collections.abc import Iterable
from itertools import islice

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from datasets.collate import clips_on
from engines.checkpoint import save_checkpoint
from engines.distributed import Context
from engines.epoch_sums import EpochSums
from engines.logs import RunLog, peak_memory, progress
from engines.mixing import ClipMixup
from engines.nonfinite import report_not_finite
from engines.parallel import gradient_norm, gradient_sync
from engines.preemption import leave, stop_requested
from engines.state import TrainingState

_logger = logging.getLogger(__name__)


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
) -> EpochSums:
    """Train `state` to the end of its epoch: args.update_freq batches forward and backward, then one optimiser update.

    The epoch may have begun before: state.epoch_step updates of it are done, and `loader` gives the batches that are
    left. Every args.save_every_steps updates the state is saved. When a process has received a stop signal, all of
    them save after the same update and leave.

    A second objective, such as models/distillation.py, is a submodule of the model with heads of its own: so its
    parameters get into the optimiser, the checkpoint, the average and the exchange between processes like all others.
    A criterion has none.

    Args:
        state: changed in place (weights, average, optimiser, `step`, `sums`); `epoch` is left to the caller.
        loader: gives batches {"clips": (N, C, T, H, W), "labels": (N,), "indices": (N,), "unreadable": [...]}, with
            "boxes" where the clips are still to be finished (datasets/collate.py); its dataset has `records`.
        criterion: loss of logits (N, classes) and labels (N,), or of soft targets (N, classes) with `mixup`.
        args: update_freq, clip_grad, bf16, log_interval, epochs, save_every_steps, max_skipped_steps, output_dir.
        context: this process.
        run_log: gets TensorBoard's scalars, and a picture of the first batch.
        mixup: mixes clips and makes the soft targets; None for none.
    Returns:
        the sums over the whole epoch and all processes.
    Raises:
        RuntimeError: more than args.max_skipped_steps updates of the run had a loss or gradient that is not finite.
        ValueError: the criterion has parameters, which nothing would train.
        SystemExit: the run was told to stop, and is saved.
    """
    if any(True for _ in criterion.parameters()):
        raise ValueError(f"{type(criterion).__name__} has parameters: make it a submodule of the model to train them")
    state.parallel.train()
    updates = state.steps_per_epoch
    batches = run_log.with_picture(loader, state.step)
    sums = EpochSums()
    bar = progress(range(state.epoch_step, updates), desc=f"Epoch {state.epoch}", enabled=context.is_main)
    for update in bar:
        done, stop = _update(state, batches, loader.dataset.records, criterion, args, context, mixup)
        sums = sums.followed_by(done)
        bar.set_postfix(loss=f"{done.loss:.3f}", lr=f"{done.lr:.1e}", refresh=False)
        if (update + 1) % args.log_interval == 0 or update + 1 == updates:
            run_log.scalars("train", _scalars(done, context), state.step)
            if bar.disable:
                _log_update(state, done, sums, update, args, context)
        due = args.save_every_steps > 0 and state.step % args.save_every_steps == 0 and update + 1 < updates
        if due or stop:
            state.sums, sums = state.sums.followed_by(sums.over_ranks()), EpochSums()
            save_checkpoint(state, args.output_dir, context)
        if stop:
            leave(agreed=True)
    state.sums = state.sums.followed_by(sums.over_ranks())
    return state.sums


def _update(
    state: TrainingState, batches, records, criterion: nn.Module, args, context: Context, mixup: ClipMixup | None
) -> tuple[EpochSums, bool]:
    """Do one optimiser update from the next batches, or skip it where it is not finite on any process.

    Returns:
        this process's sums over the one update; whether any process was told to stop.
    """
    done = EpochSums(lr=max(group["lr"] for group in state.optimizer.param_groups))
    start = time.perf_counter()
    group = list(islice(batches, args.update_freq))
    done.data_seconds = time.perf_counter() - start
    _note_unreadable(group, records, done.unreadable)
    losses, norm = _backward(state, group, criterion, args, context, mixup)
    losses, norm_value, finite, stop = _agree(losses, norm, context)
    if finite:
        if args.clip_grad is not None:
            clip_grads_with_norm_(state.model.parameters(), args.clip_grad, norm)
        state.optimizer.step()
        if state.ema is not None:
            state.ema.update(state.model, step=state.step + 1)
        done.updates, done.loss, done.grad_norm = 1, sum(losses), norm_value
        done.clips = sum(len(batch["clips"]) for batch in group)
    else:
        _skip(state, group, losses, norm_value, records, args, context)
        done.skipped = 1
    state.step += 1
    state.scheduler.step_update(state.step)
    done.seconds = time.perf_counter() - start
    return done, stop


def _backward(
    state: TrainingState, group: list[dict], criterion: nn.Module, args, context: Context, mixup: ClipMixup | None
) -> tuple[list[Tensor], Tensor]:
    """Compute the gradient of one update from the batches of `group`; return their losses and the gradient's norm.

    The losses add up to the mean over the batches. Both stay on the device.
    """
    state.optimizer.zero_grad(set_to_none=True)
    losses = []
    for number, batch in enumerate(group):
        clips = clips_on(context.device, batch)
        targets = batch["labels"].to(context.device, non_blocking=True)
        if mixup is not None:
            clips, targets = mixup(clips, targets)
        with gradient_sync(state.parallel, on=number + 1 == len(group)):
            with torch.autocast(context.device.type, dtype=torch.bfloat16, enabled=bool(args.bf16)):
                logits = state.parallel(clips)
            loss = criterion(logits.float(), targets) / len(group)
            loss.backward()
        losses.append(loss.detach())
    return losses, gradient_norm(state.model)


def _agree(losses: list[Tensor], norm: Tensor, context: Context) -> tuple[list[float], float, bool, bool]:
    """Bring the numbers of an update to the host and settle what all processes do with it.

    Returns:
        this process's losses and the norm as numbers; whether they are finite on all processes; whether any process
        was told to stop.
    """
    numbers = torch.stack([*losses, norm.to(losses[0])])
    votes = torch.stack([(~numbers.isfinite()).any().to(numbers), torch.full_like(numbers[0], stop_requested())])
    if context.world_size > 1:
        dist.all_reduce(votes, dist.ReduceOp.MAX)
    # One transfer from the device per update, for all numbers: each one makes the host wait for the GPU.
    *loss_values, norm_value, broken, stop = torch.cat([numbers, votes]).tolist()
    return loss_values, norm_value, not broken, bool(stop)


def _skip(
    state: TrainingState, group: list[dict], losses: list[float], norm: float, records, args, context: Context
) -> None:
    """Report an update that is not finite; RuntimeError when the run has had too many of them."""
    sentence = report_not_finite(state, group, losses, norm, records, args, context)
    state.optimizer.zero_grad(set_to_none=True)
    state.skipped += 1
    if state.skipped > args.max_skipped_steps:
        raise RuntimeError(
            f"{sentence}. The weights were not updated. {state.skipped} update(s) of this run were not finite, and "
            f"--max_skipped_steps is {args.max_skipped_steps}: look at the files, lower --lr, limit the gradient "
            "with --clip_grad, or try --no_bf16"
        )
    _logger.warning("%s; update skipped (%d of at most %d)", sentence, state.skipped, args.max_skipped_steps)


def _scalars(done: EpochSums, context: Context) -> dict[str, float]:
    """What TensorBoard gets of one update; step_seconds includes data_seconds."""
    return {
        "loss": done.loss,
        "lr": done.lr,
        "grad_norm": done.grad_norm,
        "clips_per_second": done.clips * context.world_size / done.seconds,
        "step_seconds": done.seconds,
        "data_seconds": done.data_seconds,
        "memory_gib": peak_memory(context.device),
    }


def _log_update(state: TrainingState, done: EpochSums, sums: EpochSums, update: int, args, context: Context) -> None:
    """Log one update, and the clips per second since the last checkpoint or the epoch's beginning."""
    _logger.info(
        "epoch %d/%d update %d/%d loss %.4f lr %.3g grad norm %.3g, %.1f clips/s",
        state.epoch,
        args.epochs,
        update + 1,
        state.steps_per_epoch,
        done.loss,
        done.lr,
        done.grad_norm,
        sums.clips * context.world_size / sums.seconds,
    )


def _note_unreadable(group: Iterable[dict], records, unreadable: dict[str, str]) -> None:
    """Add the batches' unreadable videos to `unreadable`, path -> message."""
    for batch in group:
        for index, message in batch.get("unreadable", ()):
            unreadable[str(records[int(index)].path)] = message
