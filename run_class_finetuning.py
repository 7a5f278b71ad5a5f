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
from common.settings import add_options, from_flags
from datasets.arguments import add_data_arguments
from datasets.clip_dataset import ClipDataset
from datasets.held_out import build_with_held_out
from datasets.teacher_outputs import TeacherSettings, read_teacher_outputs
from engines.arguments import add_engine_arguments
from engines.configuration import add_recipe_arguments, parse_command_line
from engines.objectives.classification import Classification
from engines.objectives.distillation import Distillation
from engines.objectives.mixing import LossSettings, add_loss_arguments
from engines.objectives.probe import Probe
from engines.objectives.stored_teacher import StoredTeacher
from engines.probe_settings import ProbeSettings, settle_probe
from engines.run import run_task
from engines.task import Task
from models.arguments import add_model_arguments
from models.videomambapro import VideoMambaPro
from reports.best_effort import try_to_report


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of video training and testing."""
    parser = get_classifier_parser()
    add_options(parser.add_argument_group("probes"), ProbeSettings)
    return parser


def get_classifier_parser() -> argparse.ArgumentParser:
    """Return the parser of a classifier's training and testing."""
    parser = FlagParser(description="VideoMambaPro: fine-tuning and evaluation on videos")
    add_model_arguments(parser)
    add_data_arguments(parser)
    add_engine_arguments(parser)
    add_loss_arguments(parser)
    add_options(parser.add_argument_group("distillation from a stored teacher"), TeacherSettings)
    add_recipe_arguments(parser)
    return parser


def classify(
    model: VideoMambaPro, args: argparse.Namespace, test_set: ClipDataset, train_set: ClipDataset | None
) -> Classification:
    """Create the objective of the run; without a training list, one for testing only."""
    if train_set is None:
        return Classification(model, test_set.num_classes, class_names=args.class_names)
    labels = [record.target for record in train_set.records]
    settings = from_flags(LossSettings, args)
    shared = dict(settings=settings, labels=labels, class_names=args.class_names)
    if not args.teacher_scores:
        return Classification(model, test_set.num_classes, **shared)
    taught = from_flags(TeacherSettings, args)
    outputs = read_teacher_outputs(
        taught, train_set.records, test_set.num_classes, list_file=train_set.list_file, data_root=args.data_root
    )
    teacher = StoredTeacher(model.embed_dim, outputs, taught.distill_temperature)
    weights = dict(weight=taught.distill_weight, label_weight=taught.label_weight)
    return Distillation(model, test_set.num_classes, teacher=teacher, **weights, **shared)


def probe(
    model: VideoMambaPro, args: argparse.Namespace, test_set: ClipDataset, train_set: ClipDataset
) -> Classification:
    """Create the objective of a run with --probe."""
    settings = from_flags(LossSettings, args)
    labels = [record.target for record in train_set.records]
    shared = dict(settings=settings, labels=labels, class_names=args.class_names)
    return Probe(model, test_set.num_classes, grid=from_flags(ProbeSettings, args).grid, **shared)


TASK = Task(SCRIPT, get_parser, classify)
PROBE = Task(SCRIPT, get_parser, probe, build_dataset=build_with_held_out)


@record  # lets torchrun show the traceback of the process that failed first
def main(flags: argparse.Namespace) -> None:
    """Train (unless --eval), then test all segments and crops of every test video."""
    run_task(PROBE if flags.probe and not flags.eval else TASK, flags, try_to_report)


if __name__ == "__main__":
    main(parse_command_line(get_parser(), script=SCRIPT, settle=settle_probe))
