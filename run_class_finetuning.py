"""Trains and tests a video classifier: `python run_class_finetuning.py --data_path LISTS --data_root VIDEOS ...`.

Runs alone, under torchrun or under SLURM. `--finetune FILE` starts from a checkpoint of images or videos, `--eval`
only tests. `--recipe k400/tiny_f16_res224` takes the settings of a published run, `--dry_run` checks everything and
stops. All results go to --output_dir: checkpoints, log.txt, TensorBoard events, results.json.
"""

import argparse

from torch.distributed.elastic.multiprocessing.errors import record

from common.flags import FlagParser
from datasets.arguments import add_data_arguments
from datasets.build import build_dataset, build_loader
from engines.arguments import add_engine_arguments
from engines.checkpoint import resume_training
from engines.configuration import add_recipe_arguments, fit_batch_to_list, parse_arguments
from engines.distributed import close_distributed
from engines.dry_run import dry_run
from engines.runner import fit, start_run, test
from engines.state import create_training_state
from engines.train import updates_per_epoch
from models.arguments import add_model_arguments
from models.build import build_model, load_finetune_checkpoint

SCRIPT = "run_class_finetuning.py"


def get_parser() -> argparse.ArgumentParser:
    """All flags of video training and testing."""
    parser = FlagParser(description="VideoMambaPro: fine-tuning and evaluation on videos")
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_engine_arguments(parser)
    add_recipe_arguments(parser)
    return parser


@record  # torchrun shows the traceback of the process that failed first
def main(args: argparse.Namespace) -> None:
    """Trains (unless --eval), then tests all segments and crops of every test video."""
    if args.dry_run is not None:
        raise SystemExit(dry_run(args, get_parser(), SCRIPT))
    context = start_run(args)
    shards = dict(rank=context.rank, world_size=context.world_size)

    # All lists are read, and refused, before anything is built on them.
    test_set = build_dataset("test", args)
    train_set = None if args.eval else build_dataset("train", args)
    val_set = None if args.eval or args.disable_eval_during_finetuning else build_dataset("validation", args)

    model = build_model(args, test_set.num_classes)
    load_finetune_checkpoint(model, args)

    state = None
    if train_set is not None:
        fit_batch_to_list(args, len(train_set), context.world_size)
        train_loader = build_loader(train_set, "train", args, **shards)
        val_loader = None if val_set is None else build_loader(val_set, "validation", args, **shards)
        steps = updates_per_epoch(train_loader, args.update_freq)
        state = create_training_state(model, args, context, steps_per_epoch=steps)
        resume_training(state, args, context)
        fit(state, train_loader, val_loader, args, context, num_classes=test_set.num_classes)

    test_loader = build_loader(test_set, "test", args, **shards)
    test(model, test_loader, args, context, num_classes=test_set.num_classes, state=state)
    close_distributed()


if __name__ == "__main__":
    main(parse_arguments(get_parser(), script=SCRIPT))
