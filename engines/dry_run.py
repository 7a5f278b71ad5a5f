"""--dry_run: check a run's inputs and estimate its memory and time without starting it."""

import argparse
import logging
import os
import shlex
from dataclasses import replace
from typing import Any

import torch

from common.frame_size import as_pair
from common.settings import from_flags
from engines.batch import fit_batch_to_list
from engines.distributed import place_from_environment, resolve_device
from engines.estimate import ASSUMED_GPU_FLOPS, Workload, estimate_memory, measure_seconds_per_clip
from engines.list_check import DataCheck, check_data
from engines.optim import create_optimizer, create_schedule, scale_learning_rates
from engines.settings import RunSettings
from engines.task import Task
from engines.train import updates_per_epoch
from models.arguments import ModelSettings, WeightSettings
from models.build import build_model, load_finetune_checkpoint
from models.complexity import Complexity, measure_complexity
from models.config import ModelConfig
from models.freezing import trained_share

_logger = logging.getLogger(__name__)

MAX_LISTED_FAULTS = 50


def dry_run(task: Task, flags: argparse.Namespace, *, measure: bool = True) -> int:
    """Check lists and files, build data, model and optimizer, and estimate memory and hours.

    Args:
        task: of the run script.
        flags: flags of the run.
        measure: time a short training step on the available device.

    Returns:
        the exit status: 0, or 1 if there are faults, each logged with file and line.

    Raises:
        ValueError: the model cannot be built, or --finetune does not fit it.
        FileNotFoundError: --finetune does not exist.
    """
    rank, world_size, _ = place_from_environment()
    if rank != 0:
        return 0
    processes = flags.dry_run or world_size
    _logger.info("full command: %s", full_command(flags, task.get_parser(), task.script))
    settings, data = RunSettings.of(flags), task.read_settings(flags)
    check = check_data(data, task.modes(settings), task.build_dataset)
    for warning in check.warnings:
        _logger.warning("%s", warning)
    if check.faults:
        for fault in check.faults[:MAX_LISTED_FAULTS]:
            _logger.error("%s", fault)
        unlisted = len(check.faults) - MAX_LISTED_FAULTS
        _logger.error(
            "dry run: %d fault(s)%s; nothing was built",
            len(check.faults),
            f", {unlisted} of them not listed" if unlisted > 0 else "",
        )
        return 1
    num_classes = next(iter(check.datasets.values())).num_classes
    with torch.device("meta"):
        model = build_model(ModelSettings.from_flags(flags), num_classes)
    load_finetune_checkpoint(model, from_flags(WeightSettings, flags))
    if settings.flags.get("teacher") and not settings.eval:
        task.check_teacher(flags, model)
    device = resolve_device(settings.device)
    bf16 = device.type == "cuda" if settings.bf16 is None else settings.bf16
    complexity = measure_complexity(model, bf16=bf16 or processes > 1)
    workload = _workload(task, settings, data, check, model, complexity, processes)
    _log_model(model.config, complexity)
    _log_memory(settings, complexity, device)
    _log_compute(complexity, workload, processes)
    if measure:
        clips = settings.batch_size * settings.num_sample
        seconds = measure_seconds_per_clip(model.config, complexity, clips, device, bool(bf16))
        hours = workload.training_passes * seconds / processes / 3600
        _logger.info(
            "estimate: %.3g hours on %d process(es) like this one (%s): %.3g training passes x %.3g s / processes, "
            "measured with a small model and few frames; more if reading the videos is slower than training",
            hours,
            processes,
            device,
            workload.training_passes,
            seconds,
        )
        if device.type == "cpu" and os.getloadavg()[0] > (os.cpu_count() or 1):
            _logger.warning("this machine is busy with other programs: the measured time is too high")
    _logger.info("dry run: no faults; the run was not started")
    return 0


def full_command(flags: argparse.Namespace, parser: argparse.ArgumentParser, script: str) -> str:
    """Return the command line that gives these flags without a recipe: all that differ from the defaults."""
    words = ["python", script]
    for action in parser._actions:
        value = vars(flags).get(action.dest)
        if action.dest in ("help", "recipe", "config", "dry_run") or value is None or value == action.default:
            continue
        if isinstance(action, argparse.BooleanOptionalAction):
            words.append(action.option_strings[0 if value else -1])
        elif action.nargs == 0:
            if value == action.const:
                words.append(action.option_strings[0])
        else:
            words += [action.option_strings[0], *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def _workload(
    task: Task,
    settings: RunSettings,
    data: Any,
    check: DataCheck,
    model: torch.nn.Module,
    complexity: Complexity,
    processes: int,
) -> Workload:
    """Build dataloaders, optimizer and schedule as the run will, and count the clips."""
    trained = validated = 0
    datasets = check.datasets
    if not settings.eval:
        settings = fit_batch_to_list(settings, len(datasets["train"]), processes)
        data = replace(data, batch_size=settings.batch_size)
        loader = task.build_loader(datasets["train"], "train", data, rank=0, world_size=processes)
        updates = updates_per_epoch(loader, settings.update_freq)
        rates = scale_learning_rates(settings, processes)
        create_schedule(create_optimizer(model, settings, rates.peak), settings, rates, updates)
        trained = settings.epochs * updates * rates.clips_per_update
        validations = -(-settings.epochs // settings.eval_freq)
        validated = validations * len(datasets["validation"]) if "validation" in datasets else 0
        _logger.info("%d epochs x %d steps x %d clips", settings.epochs, updates, rates.clips_per_update)
    tested = datasets.get(task.test_mode)
    views = len(tested) * tested.plan.segments * tested.plan.crops if tested else 0
    forward = complexity.flops / complexity.training_flops
    return Workload(trained, validated, views, forward + (1 - forward) * trained_share(model), forward)


def _log_model(config: ModelConfig, complexity: Complexity) -> None:
    _logger.info(
        "%s: %.1f M parameters, %d outputs, %d frames of %d x %d, %d tokens, %.1f GFLOPs per clip",
        config.name,
        complexity.parameters / 1e6,
        config.num_classes,
        config.num_frames,
        *as_pair(config.img_size),
        complexity.tokens,
        complexity.flops / 1e9,
    )


def _log_memory(settings: RunSettings, complexity: Complexity, device: torch.device) -> None:
    if settings.eval:
        return
    total, breakdown = estimate_memory(complexity, settings)
    _logger.info("estimate: %.1f GiB per process while training: %s", total / 2**30, breakdown)
    if device.type == "cuda":
        available = torch.cuda.get_device_properties(device).total_memory
        if total > 0.9 * available:
            _logger.warning(
                "this GPU has %.1f GiB: lower --batch_size (--global_batch stays the same) or use gradient "
                "checkpointing, --use_checkpoint --checkpoint_num N",
                available / 2**30,
            )


def _log_compute(complexity: Complexity, workload: Workload, processes: int) -> None:
    flops = complexity.training_flops * workload.training_passes
    _logger.info(
        "estimate: %.3g PFLOPs in total: %.1f GFLOPs (forward and backward) x (%d clips trained%s + (%d validated + "
        "%d views tested) x %.2f (forward)); at an assumed %.0f TFLOP/s per GPU, %.3g hours on %d",
        flops / 1e15,
        complexity.training_flops / 1e9,
        workload.trained,
        f" x {workload.training_pass:.2f} (--freeze)" if workload.training_pass < 1 else "",
        workload.validated,
        workload.tested,
        workload.forward,
        ASSUMED_GPU_FLOPS / 1e12,
        flops / ASSUMED_GPU_FLOPS / processes / 3600,
        processes,
    )
