"""The steps of a run, shared by all run scripts: read the lists, build data and model, train, test."""

import argparse
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common.files import write_json
from common.settings import from_flags
from datasets.clip_dataset import ClipDataset
from datasets.temporal_controls import CONTROLS, check_controls, with_control
from engines.batch import fit_batch_to_list
from engines.checkpoint import resume_training
from engines.configuration import refused_in_one_line
from engines.distributed import close_distributed
from engines.dry_run import dry_run
from engines.preemption import interruption_told
from engines.runner import fit, run_test, start_run
from engines.settings import RunSettings
from engines.state import create_training_state
from engines.task import Task
from engines.train import updates_per_epoch
from models.arguments import ModelSettings, WeightSettings
from models.build import build_model, load_finetune_checkpoint

_logger = logging.getLogger(__name__)


@interruption_told()
def run_task(task: Task, flags: argparse.Namespace, report: Callable[[str, ClipDataset | None], None]) -> None:
    """Train (unless --eval) and test; with --dry_run, only check.

    Args:
        task: Task of the run script.
        flags: Parsed flags of the script.
        report: Writes the report; called with the output folder and the tested dataset.
    """
    with refused_in_one_line(task.get_parser()):
        if flags.dry_run is not None:
            raise SystemExit(dry_run(task, flags))
        context, settings = start_run(RunSettings.of(flags))

        # Read all lists first, so that faults are reported before anything is built.
        data = task.read_settings(flags)
        sets = {mode: task.build_dataset(mode, data) for mode in task.modes(settings)}
        test_set, train_set = sets.get(task.test_mode), sets.get("train")

        listed = {mode: some.list_file for mode, some in sets.items()}
        if settings.test_best is not False and "test" in listed and listed["test"] == listed.get("validation"):
            remedy = "--no_test_best tests the last epoch"
            _logger.warning("%s is tested, and also chooses checkpoint-best.pth (%s)", listed["test"], remedy)

        model = build_model(ModelSettings.from_flags(flags), next(iter(sets.values())).num_classes)
        load_finetune_checkpoint(model, from_flags(WeightSettings, flags))
        objective = task.create_objective(model, flags, test_set, train_set)

        if train_set is not None:
            settings = fit_batch_to_list(settings, len(train_set), context.world_size)
            data = replace(data, batch_size=settings.batch_size)
        shards = dict(rank=context.rank, world_size=context.world_size)
        loaders = {mode: task.build_loader(some, mode, data, **shards) for mode, some in sets.items()}
        controls = {}
        if getattr(flags, "temporal_controls", False):
            check_controls(flags.task, test_set)
            controls = {
                name: task.build_loader(with_control(test_set, name), task.test_mode, data, **shards)
                for name in CONTROLS
            }

        state = None
        if train_set is not None:
            steps = updates_per_epoch(loaders["train"], settings.update_freq)
            state = create_training_state(objective, settings, context, steps_per_epoch=steps)
            resume_training(state, settings, context)
        if settings.output_dir and context.is_main:  # not before the folder is known to be of this run
            write_json(Path(settings.output_dir) / "args.json", settings.flags)

    if state is not None:
        fit(state, loaders["train"], loaders.get("validation"), settings, context)

    if task.test_mode in loaders:
        run_test(objective, loaders[task.test_mode], settings, context, state=state, controls=controls)
    if settings.output_dir and context.is_main:
        report(settings.output_dir, test_set)
    close_distributed()
