"""One training epoch, for images (clips of one frame) and videos alike."""

import logging
import time
from collections.abc import Iterable
from functools import partial
from itertools import islice

from common.progress import progress
from engines.checkpoint import save_checkpoint
from engines.distributed import Context
from engines.epoch_sums import EpochSums
from engines.logs import RunLog, peak_memory
from engines.nonfinite import report_not_finite
from engines.preemption import leave, stop_requested
from engines.settings import RunSettings
from engines.state import TrainingState
from engines.update import Results, prepared, step_numbers, take_step

_logger = logging.getLogger(__name__)


def updates_per_epoch(loader, update_freq: int) -> int:
    """Return the optimizer steps per epoch; the last batches are dropped if they do not fill a step.

    Args:
        loader: training dataloader.
        update_freq: accumulated batches per optimizer step.

    Raises:
        ValueError: the batches do not fill a single step.
    """
    updates = len(loader) // update_freq
    if updates == 0:
        raise ValueError(
            f"the training list gives {len(loader)} batch(es) per process, but one optimizer step needs "
            f"{update_freq}: lower --batch_size or --update_freq, or use fewer processes"
        )
    return updates


def train_one_epoch(
    state: TrainingState, loader, settings: RunSettings, context: Context, run_log: RunLog
) -> EpochSums:
    """Train `state` to the end of its epoch; each optimizer step accumulates `update_freq` batches.

    A resumed epoch continues after state.epoch_step steps, and `loader` yields its remaining batches. The state is
    saved every settings.save_every_steps steps. If any process has received a stop signal, all of them save and exit
    after the same step.

    Args:
        state: changed in place (weights, EMA, optimizer, `step`, `sums`); the caller advances `epoch`.
        loader: yields batches of datasets/collate.py for the objective; its dataset has `records`.
        settings: update_freq, clip_grad, bf16, log_interval, epochs, save_every_steps, max_skipped_steps and
            output_dir are used.
        context: this process.
        run_log: receives the scalars and an image of the first batch for TensorBoard.
    Returns:
        the sums over the whole epoch and all processes.
    Raises:
        RuntimeError: more than `max_skipped_steps` steps of the run had a loss or gradient that was not finite.
        SystemExit: the run was stopped by a signal; its state is saved.
    """
    state.parallel.train()
    updates = state.steps_per_epoch
    batches = run_log.with_picture(loader, state.step)
    sums = EpochSums()
    bar = progress(range(state.epoch_step, updates), desc=f"Epoch {state.epoch}", enabled=context.is_main)
    for update in bar:
        done, stop = _step(state, batches, loader.dataset.records, settings, context)
        sums = sums.followed_by(done)
        shown = {name: f"{value:.3f}" for name, value in done.scalars.items()}
        bar.set_postfix(shown | {"lr": f"{done.lr:.1e}"}, refresh=False)
        if (update + 1) % settings.log_interval == 0 or update + 1 == updates:
            run_log.scalars("train", _scalars(done, context), state.step)
            if bar.disable:
                _log_step(state, done, sums, update, settings, context)
        due = settings.save_every_steps > 0 and state.step % settings.save_every_steps == 0 and update + 1 < updates
        if due or stop:
            state.sums, sums = state.sums.followed_by(sums.over_ranks()), EpochSums()
            save_checkpoint(state, settings.output_dir, context)
        if stop:
            leave(agreed=True)
    state.sums = state.sums.followed_by(sums.over_ranks())
    return state.sums


def _step(state: TrainingState, batches, records, settings: RunSettings, context: Context) -> tuple[EpochSums, bool]:
    """Do one optimizer step with the next batches, or skip it if loss or gradient are not finite on any process.

    Returns:
        this process's sums over the step; whether any process has received a stop signal.
    """
    done = EpochSums(lr=max(group["lr"] for group in state.optimizer.param_groups))
    start = time.perf_counter()
    group = list(islice(batches, settings.update_freq))
    done.data_seconds = time.perf_counter() - start
    _note_unreadable(group, records, done.unreadable)
    step = partial(take_step, state, settings, context)
    step = step if state.graph is None else partial(state.graph, step)
    results = step(prepared(state, group, settings, context), step_numbers(state, group, context))
    scalars, norm, finite, stop = _read(results, context)
    if finite:
        done.updates, done.grad_norm = 1, norm
        done.scalars = {name: sum(values) for name, values in scalars.items()}
        done.clips = sum(len(batch["clips"]) for batch in group)
    else:
        _skip(state, group, scalars["loss"], norm, records, settings, context)
        done.skipped = 1
    state.step += 1
    state.scheduler.step_update(state.step)
    done.seconds = time.perf_counter() - start
    return done, stop


def _read(results: Results, context: Context) -> tuple[dict[str, list[float]], float, bool, bool]:
    """Copy the results of a step to the host, in a single transfer, because each makes the host wait for the GPU.

    Returns:
        this process's scalars, name -> one number per batch; the norm; whether losses and norm are finite on all
        processes; whether any process has received a stop signal.
    """
    *numbers, norm, broken, stop = results.numbers.tolist()
    batches = len(numbers) // len(results.names)
    by_name = {name: numbers[i * batches : (i + 1) * batches] for i, name in enumerate(results.names)}
    # A process alone needs no vote, and that of a captured step would be the one of its capture.
    return by_name, norm, not broken, bool(stop) if context.world_size > 1 else stop_requested()


def _skip(
    state: TrainingState,
    group: list[dict],
    losses: list[float],
    norm: float,
    records,
    settings: RunSettings,
    context: Context,
) -> None:
    """Report a step that is not finite; raise a RuntimeError if the run has had too many of them."""
    sentence = report_not_finite(state, group, losses, norm, records, settings, context)
    state.optimizer.zero_grad(set_to_none=True)
    state.skipped += 1
    if state.skipped > settings.max_skipped_steps:
        raise RuntimeError(
            f"{sentence}. The weights were not updated. {state.skipped} step(s) of this run were not finite, and "
            f"--max_skipped_steps is {settings.max_skipped_steps}: check the files, lower --lr, clip the gradient "
            "with --clip_grad, or try --no_bf16"
        )
    _logger.warning("%s; step skipped (%d of at most %d)", sentence, state.skipped, settings.max_skipped_steps)


def _scalars(done: EpochSums, context: Context) -> dict[str, float]:
    """Return the scalars of one step for TensorBoard; step_seconds includes data_seconds."""
    return {
        **done.scalars,
        "lr": done.lr,
        "grad_norm": done.grad_norm,
        "clips_per_second": done.clips * context.world_size / done.seconds,
        "step_seconds": done.seconds,
        "data_seconds": done.data_seconds,
        "memory_gib": peak_memory(context.device),
    }


def _log_step(
    state: TrainingState, done: EpochSums, sums: EpochSums, update: int, settings: RunSettings, context: Context
) -> None:
    """Log one step, with the clips per second since the last checkpoint or the beginning of the epoch."""
    _logger.info(
        "epoch %d/%d step %d/%d %s lr %.3g grad norm %.3g, %.1f clips/s",
        state.epoch,
        settings.epochs,
        update + 1,
        state.steps_per_epoch,
        " ".join(f"{name} {value:.4f}" for name, value in done.scalars.items()) or "skipped",
        done.lr,
        done.grad_norm,
        sums.clips * context.world_size / sums.seconds,
    )


def _note_unreadable(group: Iterable[dict], records, unreadable: dict[str, str]) -> None:
    """Add the unreadable videos of the batches to `unreadable`, path -> reason."""
    for batch in group:
        for index, message in batch.get("unreadable", ()):
            unreadable[str(records[int(index)].path)] = message
