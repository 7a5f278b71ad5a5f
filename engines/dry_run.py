"""--dry_run: everything that can be known before a run is started, without starting it."""

import argparse
import logging
import os
import shlex
from dataclasses import replace
from typing import Any

import torch

from common.settings import from_flags
from engines.batch import fit_batch_to_list
from engines.distributed import place_from_environment
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
from models.describe import describe_checkpoint

_logger = logging.getLogger(__name__)

MOST_TOLD = 50


def dry_run(task: Task, flags: argparse.Namespace, *, measure: bool = True) -> int:
    """Check lists and files, build data, model and optimiser, estimate memory and hours, and stop.

    Args:
        task: of the run script.
        flags: of a run.
        measure: time a short training step on the device at hand.

    Returns:
        the process's exit status: 0, or 1 where there are faults; each is logged with file and line.

    Raises:
        ValueError, FileNotFoundError: what building the model or loading --finetune raises.
    """
    rank, world_size, _ = place_from_environment()
    if rank != 0:
        return 0
    processes = flags.dry_run or world_size
    _logger.info("the run: %s", full_command(flags, task.get_parser(), task.script))
    settings, data = RunSettings.of(flags), task.read_settings(flags)
    check = check_data(data, task.modes(settings), task.build_dataset)
    for warning in check.warnings:
        _logger.warning("%s", warning)
    if check.faults:
        for fault in check.faults[:MOST_TOLD]:
            _logger.error("%s", fault)
        more = len(check.faults) - MOST_TOLD
        _logger.error(
            "dry run: %d fault(s)%s; nothing was built",
            len(check.faults),
            f", {more} more than told" if more > 0 else "",
        )
        return 1
    num_classes = next(iter(check.datasets.values())).num_classes
    with torch.device("meta"):
        model = build_model(ModelSettings.from_flags(flags), num_classes)
    load_finetune_checkpoint(model, from_flags(WeightSettings, flags))
    if settings.flags.get("teacher") and not settings.eval:
        describe_checkpoint(flags.teacher)
    workload = _workload(task, settings, data, check, model, processes)
    device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bf16 = device.type == "cuda" if settings.bf16 is None else settings.bf16
    complexity = measure_complexity(model, bf16=bf16 or processes > 1)
    _tell_model(model.config, complexity)
    _tell_memory(settings, complexity, device)
    _tell_compute(complexity, workload, processes)
    if measure:
        clips = settings.batch_size * settings.num_sample
        seconds = measure_seconds_per_clip(model.config, complexity, clips, device, bool(bf16))
        hours = workload.training_passes * seconds / processes / 3600
        _logger.info(
            "estimate: %.3g hours on %d process(es) like this one (%s): %.3g training passes x %.3g s, measured "
            "on a small model and a few frames, / processes; reading the videos comes on top where it is slower",
            hours,
            processes,
            device,
            workload.training_passes,
            seconds,
        )
        if device.type == "cpu" and os.getloadavg()[0] > (os.cpu_count() or 1):
            _logger.warning("other programs keep this machine busy: the measured time is too long")
    _logger.info("dry run: no faults; the run was not started")
    return 0


def full_command(flags: argparse.Namespace, parser: argparse.ArgumentParser, script: str) -> str:
    """The command line that gives these flags without a recipe: all that differ from the parser's defaults."""
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
    task: Task, settings: RunSettings, data: Any, check: DataCheck, model: torch.nn.Module, processes: int
) -> Workload:
    """Build loaders, optimiser and schedule as the run will, and count the clips."""
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
        validated = settings.epochs * len(datasets["validation"]) if "validation" in datasets else 0
        _logger.info("%d epochs x %d updates x %d clips", settings.epochs, updates, rates.clips_per_update)
    tested = datasets[task.test_mode]
    return Workload(trained, validated, len(tested) * tested.plan.segments * tested.plan.crops)


def _tell_model(config: ModelConfig, complexity: Complexity) -> None:
    _logger.info(
        "%s: %.1f M parameters, %d classes, %d frames of %d x %d, %d tokens, %.1f GFLOPs a clip",
        config.name,
        complexity.parameters / 1e6,
        config.num_classes,
        config.num_frames,
        config.img_size,
        config.img_size,
        complexity.tokens,
        complexity.flops / 1e9,
    )


def _tell_memory(settings: RunSettings, complexity: Complexity, device: torch.device) -> None:
    if settings.eval:
        return
    total, words = estimate_memory(complexity, settings)
    _logger.info("estimate: %.1f GiB a process while training: %s", total / 2**30, words)
    if device.type == "cuda":
        there = torch.cuda.get_device_properties(device).total_memory
        if total > 0.9 * there:
            _logger.warning(
                "this GPU has %.1f GiB: lower --batch_size (the batch of an update stays) or recompute with "
                "--use_checkpoint --checkpoint_num N",
                there / 2**30,
            )


def _tell_compute(complexity: Complexity, workload: Workload, processes: int) -> None:
    flops = 3 * complexity.flops * workload.training_passes
    _logger.info(
        "estimate: %.3g PFLOPs in all: 3 x %.1f GFLOPs (forward and backward) x (%d clips trained + %d validated "
        "/ 3 + %d views tested / 3); at an assumed %.0f TFLOP/s a GPU, %.3g hours on %d",
        flops / 1e15,
        complexity.flops / 1e9,
        workload.trained,
        workload.validated,
        workload.tested,
        ASSUMED_GPU_FLOPS / 1e12,
        flops / ASSUMED_GPU_FLOPS / processes / 3600,
        processes,
    )
