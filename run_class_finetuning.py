"""Train and test a video classifier: `python run_class_finetuning.py --data_path LISTS --data_root VIDEOS ...`.

Runs as a single process, under torchrun or under SLURM. `--finetune FILE` starts from pretrained weights of images or
videos, `--eval` only tests. `--recipe k400/tiny_f16_res224` uses the settings of a published run, `--dry_run` checks
everything and stops. All results are written to --output_dir: checkpoints, log.txt, TensorBoard events, results.json.
"""

import argparse

from engines.early_stop import leave_on_signals

SCRIPT = "run_class_finetuning.py"

if __name__ == "__main__":
    leave_on_signals()

from engines.early_check import check_command_line

if __name__ == "__main__":
    check_command_line(SCRIPT)  # what follows takes seconds to import

from torch.distributed.elastic.multiprocessing.errors import record

from common.flag_parser import FlagParser
from common.settings import from_flags
from datasets.arguments import add_data_arguments
from datasets.clip_dataset import ClipDataset
from engines.arguments import add_engine_arguments
from engines.configuration import add_recipe_arguments, parse_command_line
from engines.loss_settings import LossSettings, add_loss_arguments
from engines.objectives.base import Objective
from engines.objectives.tasks import create_objective, take_from_checkpoint
from engines.run import run_task
from engines.task import Task
from models.arguments import add_model_arguments
from models.describe import describe_checkpoint
from models.videomambapro import VideoMambaPro
from reports.best_effort import try_to_report


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of video training and testing."""
    parser = FlagParser(description="VideoMambaPro: fine-tuning and evaluation on videos")
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_engine_arguments(parser)
    add_loss_arguments(parser)
    add_recipe_arguments(parser)
    return parser


def objective_of_labels(
    model: VideoMambaPro, args: argparse.Namespace, test_set: ClipDataset, train_set: ClipDataset | None
) -> Objective:
    """Create the objective of --task; without a training list, one for testing only."""
    objective = create_objective(
        args.task,
        model,
        test_set.num_classes,
        None if train_set is None else from_flags(LossSettings, args),
        targets=[] if train_set is None else [record.target for record in train_set.records],
        names=args.class_names,
        view_merge=args.view_merge,
    )
    if train_set is None and args.finetune and not args.resume:
        take_from_checkpoint(objective, describe_checkpoint(args.finetune))
    return objective


TASK = Task(SCRIPT, get_parser, objective_of_labels)


@record  # lets torchrun show the traceback of the process that failed first
def main(flags: argparse.Namespace) -> None:
    """Train (unless --eval), then test all segments and crops of every test video."""
    run_task(TASK, flags, try_to_report)


if __name__ == "__main__":
    main(parse_command_line(get_parser(), script=SCRIPT))
