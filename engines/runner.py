"""The phases of a run, shared by the training scripts: start, fit, test."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.memory import keep_freed_memory
from engines.checkpoint import BEST, load_weights, read_newest, save_checkpoint
from engines.distributed import Context, broadcast_object, init_distributed, place_from_environment
from engines.evaluate import Evaluation, evaluate
from engines.logs import RunLog, loading_advice, setup_logging
from engines.objectives.base import Objective
from engines.preemption import install_stop_handlers, stop_deferred
from engines.results import AboutTest, write_results
from engines.run_folder import claim
from engines.settings import RunSettings
from engines.state import TrainingState, seed_everything
from engines.train import train_one_epoch

_logger = logging.getLogger(__name__)


def start_run(settings: RunSettings) -> tuple[Context, RunSettings]:
    """Join the process group, set up logging and random seeds, and lock settings.output_dir until the process ends.

    Returns:
        this process, and the settings with the defaults of device and bf16 resolved (bf16 is on if the GPU supports
        bfloat16).
    Raises:
        SystemExit: another run uses the folder.
    """
    setup_logging(place_from_environment()[0])
    context = init_distributed(settings.device, timeout=settings.dist_timeout)
    claim(settings.output_dir, context, patience=settings.dist_timeout / 2)
    bf16 = settings.bf16
    if bf16 is None:
        bf16 = context.device.type == "cuda" and torch.cuda.is_bf16_supported()
    settings = settings.changed(device=str(context.device), bf16=bf16)
    seed_everything(settings.seed + context.rank)
    if context.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    else:
        keep_freed_memory()
    _logger.info(
        "%d process(es) on %s, %s, seed %d, torch %s",
        context.world_size,
        context.device,
        "bfloat16" if settings.bf16 else "float32",
        settings.seed,
        torch.__version__,
    )
    if context.device.type == "cpu" and settings.flags.get("gpu_transforms"):
        _logger.warning("--gpu_transforms on a CPU moves work from the dataloader workers to the training process")
    if not (settings.output_dir or settings.eval):
        _logger.warning("no --output_dir: nothing of this run will be saved")
    return context, settings


def fit(state: TrainingState, train_loader, val_loader, settings: RunSettings, context: Context) -> None:
    """Train from state.epoch to settings.epochs; after each epoch, validate if due, save and write log.txt.

    Args:
        state: from `create_training_state`, possibly resumed.
        train_loader: see `train_one_epoch`; if its sampler has `set_epoch(epoch, start=...)`, this is called with the
            number of this process's records to skip, those of the steps already done in the epoch.
        val_loader: see `evaluate`; None for no validation, and then no best checkpoint either.
        settings: of the run.
        context: this process.
    """
    install_stop_handlers(settings.output_dir)
    run_log = RunLog(
        settings.output_dir,
        settings.log_dir or settings.output_dir,
        enabled=context.is_main,
        tracker=settings.track,
        flags=settings.flags,
    )
    score = state.objective.score
    parameters = sum(parameter.numel() for parameter in state.objective.parameters() if parameter.requires_grad)
    state.restore_random_states(context)
    advice = ""
    for epoch in range(state.epoch, settings.epochs):
        start = time.perf_counter()
        done = state.epoch_step * train_loader.batch_size
        if hasattr(train_loader.sampler, "set_epoch"):
            train_loader.sampler.set_epoch(epoch, start=done * settings.update_freq)
        with stop_deferred():
            trained = train_one_epoch(state, train_loader, settings, context, run_log)
            # If the validation is interrupted, only the validation has to be repeated.
            save_checkpoint(state, settings.output_dir, context)
        if not advice:  # not in every epoch
            on_gpu = context.device.type == "cuda"
            advice = loading_advice(trained.metrics["data_time"], train_loader.num_workers, gpu=on_gpu)
            if advice:
                _logger.warning("%s", advice)
        due = (epoch + 1) % settings.eval_freq == 0 or epoch + 1 == settings.epochs
        validated = _validate(state, val_loader if due else None, settings, context)
        state.finish_epoch()
        best = _note_scores(state, validated)
        keep = settings.save_ckpt_freq > 0 and state.epoch % settings.save_ckpt_freq == 0
        record = {f"train_{name}": value for name, value in trained.metrics.items()} | validated
        run_log.scalars("epoch", record, state.step, epoch=state.epoch)
        run_log.epoch(
            {
                "epoch": epoch,
                **record,
                **({f"best_{score.name}": state.best_score} if score else {}),
                "train_unreadable": len(trained.unreadable),
                "clips_per_update": state.rates.clips_per_update,
                "processes": context.world_size,
                "n_parameters": parameters,
                "seconds": time.perf_counter() - start,
            }
        )
        # After the log line: if the end of an epoch is interrupted, it is logged twice rather than never.
        save_checkpoint(state, settings.output_dir, context, best=best, keep=keep)
        _logger.info(
            "epoch %d/%d done in %.1f s: %s%s",
            epoch,
            settings.epochs,
            time.perf_counter() - start,
            ", ".join(f"{name} {value:.4g}" for name, value in record.items()),
            " (best)" if best else "",
        )
    run_log.close()


def run_test(
    objective: Objective,
    test_loader,
    settings: RunSettings,
    context: Context,
    *,
    state: TrainingState | None = None,
    controls: Mapping[str, Any] = {},
) -> Evaluation:
    """Test on all views and write results.json and scores.npz to settings.output_dir.

    After training, the weights of checkpoint-best.pth are tested if it exists, or with --no_test_best those of the
    last epoch. Without training, those of --resume; otherwise of checkpoint-best.pth (unless --no_test_best) or the
    newest checkpoint (with --auto_resume) in --output_dir; otherwise the current weights of `objective`. If there is
    an EMA, it is tested instead of the model unless it was worse in the last validation.

    Args:
        objective: bare module, not wrapped for parallel training.
        test_loader: see `evaluate`.
        settings: of the run.
        context: this process.
        state: after training; None for a test only.
        controls: loaders of the same list with changed frames, by name (see `datasets.temporal_controls`), whose
            results results.json has too.
    """
    install_stop_handlers(settings.output_dir, training=state is not None)
    path = _weights_to_test(settings, context, state)
    if path is not None:
        load_weights(objective, path, settings.override_checkpoint)
        weights = str(path)
    elif state is not None:
        objective, weights = state.tested(), "weights of the last epoch"
    else:
        finetune = settings.flags.get("finetune")
        weights = f"weights of --finetune {finetune}" if finetune else "random, untrained weights"
        _logger.warning("testing %s", weights)
    objective.to(context.device)
    options: dict[str, Any] = dict(bf16=bool(settings.bf16), clips_per_forward=settings.batch_size)
    result = evaluate(objective, test_loader, context, **options)
    _logger.info("test: %s on %d videos x %d views", objective.describe(result.figures), result.videos, result.views)
    changed = {name: evaluate(objective, loader, context, desc=name, **options) for name, loader in controls.items()}
    for name, control in changed.items():
        _logger.info("test with %s frames: %s", name, objective.describe(control.figures))
    if settings.output_dir and context.is_main:
        flags = settings.flags
        about = AboutTest(
            flags.get("model"),
            weights,
            flags.get("test_num_segment", 1),
            flags.get("test_num_crop", 1),
            flags.get("data_root", ""),
        )
        path = write_results(settings.output_dir, result, objective, test_loader.dataset, about, controls=changed)
        _logger.info("wrote %s", path)
    return result


def _validate(state: TrainingState, loader, settings: RunSettings, context: Context) -> dict[str, float]:
    """Validate the model and, if there is one, its EMA; return the val_* and val_ema_* metrics."""
    if loader is None:
        return {}
    validated = {"val": state.objective}
    if state.ema is not None:
        validated["val_ema"] = state.ema.module
    record = {}
    for prefix, objective in validated.items():
        result = evaluate(
            objective,
            loader,
            context,
            bf16=bool(settings.bf16),
            clips_per_forward=settings.batch_size,
            desc="Validation",
        )
        result.figures |= objective.after_validation(result)
        record |= {f"{prefix}_{name}": value for name, value in result.summary().items()}
    return record


def _note_scores(state: TrainingState, validated: dict[str, float]) -> bool:
    """Record the score of a validation, if there is one; return whether it is the best so far."""
    score = state.objective.score
    if score is None or not validated:
        return False
    return state.note_scores(validated[f"val_{score.name}"], validated.get(f"val_ema_{score.name}"))


def _weights_to_test(settings: RunSettings, context: Context, state: TrainingState | None) -> Path | None:
    """Return the checkpoint to test, the same on all ranks; None for the current weights."""
    if state is None and settings.resume:
        return Path(settings.resume)
    choice = None
    if context.is_main:
        best = Path(settings.output_dir) / BEST
        # If this run has no best score yet, the file is left over from another run.
        if (
            settings.test_best is not False
            and settings.output_dir
            and best.is_file()
            and (state is None or state.best_score is not None)
        ):
            choice = best
        elif settings.test_best:
            _logger.warning("--test_best: there is no %s of this run in '%s'", BEST, settings.output_dir)
        if choice is None and state is None and settings.auto_resume:
            newest = read_newest(settings.output_dir)
            choice = newest[0] if newest else None
    return broadcast_object(choice)
