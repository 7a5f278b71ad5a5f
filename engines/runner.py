"""The steps of a run that both training scripts share: start, fit, test."""

import logging
import time
from pathlib import Path

import torch
from torch import nn

from datasets.memory import keep_freed_memory
from engines.checkpoint import BEST, load_weights, read_newest, save_checkpoint
from engines.distributed import Context, broadcast_object, init_distributed, place_from_environment
from engines.evaluate import Evaluation, evaluate
from engines.files import write_json
from engines.logs import RunLog, loading_advice, setup_logging
from engines.mixing import create_criterion, create_mixup
from engines.preemption import install_stop_handlers, stop_deferred
from engines.results import write_results
from engines.state import TrainingState, plain_args, seed_everything
from engines.train import train_one_epoch
from reports.after_test import try_to_report

_logger = logging.getLogger(__name__)


def start_run(args) -> Context:
    """Join the other processes, set up logging, stop signals and random seeds, and write args.json to args.output_dir.

    Settles what the flags leave open: args.device, and args.bf16 (on with CUDA where the GPU has bfloat16).
    """
    setup_logging(place_from_environment()[0])
    install_stop_handlers()
    context = init_distributed(args.device, timeout=args.dist_timeout)
    args.device = str(context.device)
    if args.bf16 is None:
        args.bf16 = context.device.type == "cuda" and torch.cuda.is_bf16_supported()
    seed_everything(args.seed + context.rank)
    if context.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    else:
        keep_freed_memory()
    _logger.info(
        "%d process(es) on %s, %s, seed %d, torch %s",
        context.world_size,
        context.device,
        "bfloat16" if args.bf16 else "float32",
        args.seed,
        torch.__version__,
    )
    if context.device.type == "cpu" and getattr(args, "gpu_transforms", False):
        _logger.warning("--gpu_transforms on a CPU takes work from the loader's workers and gives it to the training")
    if args.output_dir and context.is_main:
        write_json(Path(args.output_dir) / "args.json", plain_args(args))
    return context


def fit(state: TrainingState, train_loader, val_loader, args, context: Context, *, num_classes: int) -> None:
    """Train from state.epoch to args.epochs; after each epoch validate, save the checkpoints and write log.txt.

    Args:
        state: as made by `create_training_state`, resumed or not.
        train_loader: see `train_one_epoch`; where its sampler has `set_epoch(epoch, start=...)`, that is called with
            the number of this process's records to leave out, those of the updates done in the epoch.
        val_loader: see `evaluate`; None for no validation, and then there is no best checkpoint.
        args: flags of engines/arguments.py.
        context: this process.
        num_classes: classes of the soft targets and the validation.
    """
    mixup = create_mixup(args, num_classes)
    labels = [record.label for record in train_loader.dataset.records]
    criterion = create_criterion(args, mixup, labels, num_classes).to(context.device)
    run_log = RunLog(args.output_dir, args.log_dir or args.output_dir, enabled=context.is_main)
    known_unreadable: set[str] = set()
    parameters = sum(parameter.numel() for parameter in state.model.parameters() if parameter.requires_grad)
    state.restore_random_states(context)
    for epoch in range(state.epoch, args.epochs):
        start = time.perf_counter()
        if hasattr(train_loader.sampler, "set_epoch"):
            train_loader.sampler.set_epoch(epoch, start=state.epoch_step * args.update_freq * train_loader.batch_size)
        with stop_deferred():
            trained = train_one_epoch(state, train_loader, criterion, args, context, run_log, mixup)
            # A validation that is interrupted is done again, without the training before it.
            save_checkpoint(state, args.output_dir, context)
        _warn_of_unreadable("another video takes its place in training", trained.unreadable, known_unreadable)
        advice = loading_advice(trained.metrics["data_time"], train_loader.num_workers)
        if advice:
            _logger.warning("%s", advice)
        validated = _validate(state, val_loader, args, context, num_classes, known_unreadable)
        state.finish_epoch()
        best = bool(validated) and state.note_scores(validated["val_acc1"], validated.get("val_ema_acc1"))
        keep = args.save_ckpt_freq > 0 and state.epoch % args.save_ckpt_freq == 0
        record = {f"train_{name}": value for name, value in trained.metrics.items()} | validated
        run_log.scalars("epoch", record, state.epoch)
        run_log.epoch(
            {
                "epoch": epoch,
                **record,
                "best_acc1": state.best_score,
                "train_unreadable": len(trained.unreadable),
                "clips_per_update": state.rates.clips_per_update,
                "processes": context.world_size,
                "n_parameters": parameters,
                "seconds": time.perf_counter() - start,
            }
        )
        # After the log: an end of an epoch that is cut short is logged twice rather than never.
        save_checkpoint(state, args.output_dir, context, best=best, keep=keep)
        _logger.info(
            "epoch %d/%d done in %.1f s: %s%s",
            epoch,
            args.epochs,
            time.perf_counter() - start,
            ", ".join(f"{name} {value:.4g}" for name, value in record.items()),
            " (best)" if best else "",
        )
    run_log.close()


def test(
    model: nn.Module, test_loader, args, context: Context, *, num_classes: int, state: TrainingState | None = None
) -> Evaluation:
    """Test over all views and write results.json, scores.npz and report.html to args.output_dir.

    Which weights: after training (`state` given) those of checkpoint-best.pth with --test_best, else the last ones.
    Without training: --resume, else checkpoint-best.pth (--test_best) or the newest checkpoint (--auto_resume) of
    args.output_dir, else the weights `model` has. Where a moving average is kept, it is taken instead of the model if
    it was no worse in the validation.
    """
    path = _weights_to_test(args, context, state)
    if path is not None:
        load_weights(model, path, args.override_checkpoint)
        weights = str(path)
    elif state is not None:
        model, weights = state.test_model(), "those of the last epoch"
    else:
        weights = f"those of --finetune {args.finetune}" if getattr(args, "finetune", "") else "random, untrained"
        _logger.warning("testing weights that are %s", weights)
    model.to(context.device)
    result = evaluate(
        model, test_loader, context, num_classes=num_classes, bf16=args.bf16, clips_per_forward=args.batch_size
    )
    _logger.info(
        "test: top-1 %.2f %%, top-5 %.2f %% on %d videos x %d views",
        result.acc1,
        result.acc5,
        result.videos,
        result.views,
    )
    for video in result.excluded:
        _logger.warning("excluded from the test: line %s, %s: %s", video["line"], video["path"], video["reason"])
    if args.output_dir and context.is_main:
        dataset = test_loader.dataset
        path = write_results(args.output_dir, result, args, dataset, num_classes=num_classes, weights=weights)
        _logger.info("wrote %s", path)
        try_to_report(args.output_dir, dataset)
    return result


def _validate(
    state: TrainingState, loader, args, context: Context, num_classes: int, known_unreadable: set[str]
) -> dict[str, float]:
    """Validate the model, and its moving average where one is kept; return val_* and val_ema_* numbers."""
    if loader is None:
        return {}
    models = {"val": state.model}
    if state.ema is not None:
        models["val_ema"] = state.ema.module
    record = {}
    for prefix, model in models.items():
        result = evaluate(
            model,
            loader,
            context,
            num_classes=num_classes,
            bf16=args.bf16,
            clips_per_forward=args.batch_size,
            desc="Validation",
        )
        record |= {f"{prefix}_{name}": value for name, value in result.summary().items()}
    _warn_of_unreadable(
        "left out of the validation", {video["path"]: video["reason"] for video in result.excluded}, known_unreadable
    )
    return record


def _weights_to_test(args, context: Context, state: TrainingState | None) -> Path | None:
    """Return the checkpoint to test, the same on all ranks; None for the weights in memory."""
    if state is None and args.resume:
        return Path(args.resume)
    choice = None
    if context.is_main:
        best = Path(args.output_dir) / BEST
        # A best file without a best score in this run's memory is left over from another run.
        if args.test_best and args.output_dir and best.is_file() and (state is None or state.best_score is not None):
            choice = best
        elif args.test_best:
            _logger.warning("--test_best: this run has no %s in its output folder '%s'", BEST, args.output_dir)
        if choice is None and state is None and args.auto_resume:
            newest = read_newest(args.output_dir)
            choice = newest[0] if newest else None
    return broadcast_object(choice)


def _warn_of_unreadable(consequence: str, unreadable: dict[str, str], known: set[str]) -> None:
    """Name the videos (path -> reason) that could not be read, each once in a run."""
    for path, reason in unreadable.items():
        if path not in known:
            _logger.warning("cannot be read, %s: %s: %s", consequence, path, reason)
    known.update(unreadable)
