"""Pretrain on images, as videos of one frame: `python run_pretrain_imagenet.py --data_path LISTS --data_root IMAGES`.

The lists have lines `frame_folder_path total_frames label` or `image_path label`. The script uses the same engine as
run_class_finetuning.py, with VideoMamba's ImageNet defaults; pass its `checkpoint-best.pth` there as `--finetune`.
`--teacher FILE` distils from a smaller model of the family, as VideoMamba's middle model was trained.
"""

import argparse

from engines.early_stop import leave_on_signals

SCRIPT = "run_pretrain_imagenet.py"
DEFAULTS = "imagenet"  # the recipe file whose common flags serve where no recipe is named

if __name__ == "__main__":
    leave_on_signals()

from engines.arguments import classifier_parser
from engines.early_check import check_command_line
from engines.recipe_flags import recipe_defaults
from models.arguments import add_distillation_arguments


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of image pretraining: the flags of videos, with the image recipe's defaults."""
    parser = classifier_parser("VideoMambaPro: pretraining and evaluation on images")
    add_distillation_arguments(parser)
    recipe_defaults(parser, DEFAULTS)
    return parser


if __name__ == "__main__":
    check_command_line(SCRIPT, get_parser=get_parser, defaults=DEFAULTS)  # what follows takes seconds to import

from common.settings import from_flags
from datasets.clip_dataset import ClipDataset
from datasets.records import targets_of
from engines.configuration import parse_command_line
from engines.error_file import record
from engines.loss_settings import LossSettings
from engines.objectives.base import Objective
from engines.objectives.distillation import Distillation, TokenDistance
from engines.run import run_task
from engines.task import Task
from models.distillation import load_teacher
from models.videomambapro import VideoMambaPro
from reports.best_effort import try_to_report
from run_class_finetuning import objective_of_labels


def create_objective(
    model: VideoMambaPro, args: argparse.Namespace, test_set: ClipDataset, train_set: ClipDataset | None
) -> Objective:
    """Create the objective of the run: that of --task, with distillation if it trains with a --teacher.

    Raises:
        ValueError: a teacher of classes meets another task.
    """
    if not args.teacher or train_set is None:
        return objective_of_labels(model, args, test_set, train_set)
    if args.teacher_scores:
        raise ValueError("--teacher and --teacher_scores are two teachers: give one")
    if args.task != "classification":
        raise ValueError(f"--teacher distils classes, and this run has --task {args.task}; omit one of them")
    teacher = load_teacher(
        args.teacher,
        input_size=args.input_size,
        num_frames=args.num_frames,
        tubelet_size=args.tubelet_size,
        backend=args.backend,
    )
    return Distillation(
        model,
        test_set.num_classes,
        from_flags(LossSettings, args),
        teacher=TokenDistance(model.embed_dim, teacher),
        weight=args.distill_weight,
        label_weight=args.label_weight,
        labels=targets_of(train_set.records),
        class_names=args.class_names,
    )


TASK = Task(SCRIPT, get_parser, create_objective, test_mode="validation")


@record
def main(flags: argparse.Namespace) -> None:
    """Train (unless --eval), then test the centre crop of every validation image."""
    run_task(TASK, flags, try_to_report)


if __name__ == "__main__":
    main(parse_command_line(get_parser(), script=SCRIPT))
