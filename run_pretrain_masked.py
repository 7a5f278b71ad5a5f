"""Pretrain on videos without labels: `python run_pretrain_masked.py --train_list LIST --teacher FILE ...`.

The student sees a fifth of the patches and learns what a frozen image model, such as CLIP, says of them
(docs/masked.md). The engine is that of run_class_finetuning.py; pass `checkpoint-latest.pth` there as `--finetune`.
`--probe_list LIST` tests the features on a labelled list in the course of the run, `--recipe
masked_k400/middle_f8_res224` uses published settings, and `--dry_run` checks everything and stops.
"""

import argparse
import logging

from engines.early_stop import leave_on_signals

SCRIPT = "run_pretrain_masked.py"
DEFAULTS = "masked"  # the recipe file whose common flags serve where no recipe is named

if __name__ == "__main__":
    leave_on_signals()

from common.flag_parser import FlagParser
from common.settings import add_options, from_flags
from datasets.arguments import PretrainingSettings, ProbeListSettings, add_data_arguments
from engines.arguments import add_engine_arguments
from engines.early_check import check_command_line
from engines.recipe_flags import add_recipe_arguments, recipe_defaults
from models.arguments import MaskSettings, TeacherSettings, add_model_arguments


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of masked pretraining."""
    parser = FlagParser(description="VideoMambaPro: masked pretraining on videos without labels")
    add_model_arguments(parser)
    add_options(parser.add_argument_group("teacher"), TeacherSettings)
    add_options(parser.add_argument_group("masks"), MaskSettings)
    add_data_arguments(parser)
    add_options(parser.add_argument_group("probe"), ProbeListSettings)
    add_engine_arguments(parser)
    add_recipe_arguments(parser)
    recipe_defaults(parser, DEFAULTS)
    return parser


if __name__ == "__main__":
    check_command_line(SCRIPT, get_parser=get_parser, defaults=DEFAULTS)  # what follows takes seconds to import

from datasets.clip_dataset import ClipDataset
from datasets.pretraining import build_pretraining_dataset
from engines.configuration import parse_command_line
from engines.error_file import record
from engines.objectives.masked import MaskedAlignment
from engines.objectives.neighbours import Neighbours
from engines.run import run_task
from engines.task import Task
from models.teachers import FamilyTeacher, VitTeacher, load_teacher
from models.videomambapro import VideoMambaPro
from reports.best_effort import try_to_report

logger = logging.getLogger(__name__)


def teacher_of(args: argparse.Namespace, model: VideoMambaPro) -> VitTeacher | FamilyTeacher:
    """Load the teacher of the run for its student."""
    return load_teacher(from_flags(TeacherSettings, args), model)


def align(
    model: VideoMambaPro, args: argparse.Namespace, probe_set: ClipDataset | None, train_set: ClipDataset | None
) -> Neighbours:
    """Create the objective of the run; without a training list, one for probing only."""
    if train_set is None:
        return Neighbours(model)
    return MaskedAlignment(model, teacher_of(args, model), from_flags(MaskSettings, args))


def check_teacher(args: argparse.Namespace, model: VideoMambaPro) -> None:
    """Build the objective for a dry run, and say what its estimates leave out."""
    grid = MaskedAlignment(model, teacher_of(args, model), from_flags(MaskSettings, args)).grid
    logger.info(
        "the estimates are for all %d tokens of a clip: at --mask_ratio %g the student needs about %.0f %% of that, "
        "and the teacher's forward pass comes on top",
        1 + grid.frames * grid.patches,
        args.mask_ratio,
        100 * (1 - args.mask_ratio),
    )


def check_flags(args: argparse.Namespace) -> None:
    """Switch the evaluation off if there is no list to probe; accept VideoMamba's names of its students.

    Raises:
        ValueError: There is nothing to evaluate, or the student would have a pooler that nothing trains.
    """
    if args.eval and not args.probe_list:
        raise ValueError("--eval tests the features on a labelled list: name it with --probe_list FILE")
    if args.attentive_depth and not args.eval:
        raise ValueError("--attentive_depth pools tokens for a head, which masked pretraining does not have; omit it")
    args.model = args.model.removesuffix("_pretrain")
    args.disable_eval_during_finetuning = args.disable_eval_during_finetuning or not args.probe_list


TASK = Task(
    SCRIPT,
    get_parser,
    align,
    PretrainingSettings.from_flags,
    build_pretraining_dataset,
    test_mode="validation",
    always_tests=False,
    check_teacher=check_teacher,
)


@record
def main(flags: argparse.Namespace) -> None:
    """Train (unless --eval), then test the features on the videos of --probe_list."""
    run_task(TASK, flags, try_to_report)


if __name__ == "__main__":
    main(parse_command_line(get_parser(), script=SCRIPT, settle=check_flags))
