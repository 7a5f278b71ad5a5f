"""Train and test a video classifier: `python run_class_finetuning.py --data_path LISTS --data_root VIDEOS ...`.

Runs as a single process, under torchrun or under SLURM. `--finetune FILE` starts from pretrained weights of images or
videos, `--eval` only tests. `--recipe k400/tiny_f16_res224` uses the settings of a published run, `--dry_run` checks
everything and stops. All results are written to --output_dir: checkpoints, log.txt, TensorBoard events, results.json.
"""

import argparse

from engines.early_stop import leave_on_signals

if __name__ == "__main__":
    leave_on_signals()  # before the imports below, which take seconds

from dataclasses import replace

from torch.distributed.elastic.multiprocessing.errors import record

from common.flag_parser import FlagParser
from common.settings import from_flags
from datasets.arguments import DataSettings, add_data_arguments
from datasets.build import build_dataset, build_loader
from datasets.clip_dataset import ClipDataset
from engines.arguments import add_engine_arguments
from engines.batch import fit_batch_to_list
from engines.checkpoint import resume_training
from engines.configuration import add_recipe_arguments, parse_command_line
from engines.distributed import close_distributed
from engines.dry_run import dry_run
from engines.objectives.classification import Classification
from engines.objectives.mixing import LossSettings, add_loss_arguments
from engines.runner import fit, run_test, start_run
from engines.settings import RunSettings
from engines.state import create_training_state
from engines.train import updates_per_epoch
from models.arguments import ModelSettings, WeightSettings, add_model_arguments
from models.build import build_model, load_finetune_checkpoint
from models.videomambapro import VideoMambaPro
from reports.best_effort import try_to_report

SCRIPT = "run_class_finetuning.py"


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of video training and testing."""
    parser = FlagParser(description="VideoMambaPro: fine-tuning and evaluation on videos")
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_engine_arguments(parser)
    add_loss_arguments(parser)
    add_recipe_arguments(parser)
    return parser


def classify(
    model: VideoMambaPro, args: argparse.Namespace, num_classes: int, train_set: ClipDataset | None
) -> Classification:
    """Create the objective of the run; without a training list, one for testing only."""
    if train_set is None:
        return Classification(model, num_classes, class_names=args.class_names)
    labels = [record.target for record in train_set.records]
    settings = from_flags(LossSettings, args)
    return Classification(model, num_classes, settings, labels=labels, class_names=args.class_names)


@record  # lets torchrun show the traceback of the process that failed first
def main(flags: argparse.Namespace) -> None:
    """Train (unless --eval), then test all segments and crops of every test video."""
    if flags.dry_run is not None:
        raise SystemExit(dry_run(flags, get_parser(), SCRIPT))
    context, settings = start_run(RunSettings.of(flags))
    shards = dict(rank=context.rank, world_size=context.world_size)

    # Read all lists first, so that errors in them are reported before anything is built.
    data = DataSettings.from_flags(flags)
    test_set = build_dataset("test", data)
    train_set = None if settings.eval else build_dataset("train", data)
    val_set = None if settings.eval or settings.disable_eval_during_finetuning else build_dataset("validation", data)

    model = build_model(ModelSettings.from_flags(flags), test_set.num_classes)
    load_finetune_checkpoint(model, from_flags(WeightSettings, flags))
    objective = classify(model, flags, test_set.num_classes, train_set)

    state = None
    if train_set is not None:
        settings = fit_batch_to_list(settings, len(train_set), context.world_size)
        data = replace(data, batch_size=settings.batch_size)
        train_loader = build_loader(train_set, "train", data, **shards)
        val_loader = None if val_set is None else build_loader(val_set, "validation", data, **shards)
        steps = updates_per_epoch(train_loader, settings.update_freq)
        state = create_training_state(objective, settings, context, steps_per_epoch=steps)
        resume_training(state, settings, context)
        fit(state, train_loader, val_loader, settings, context)

    test_loader = build_loader(test_set, "test", data, **shards)
    run_test(objective, test_loader, settings, context, state=state)
    if settings.output_dir and context.is_main:
        try_to_report(settings.output_dir, test_set)
    close_distributed()


if __name__ == "__main__":
    main(parse_command_line(get_parser(), script=SCRIPT))
