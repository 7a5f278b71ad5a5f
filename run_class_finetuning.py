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

from common.settings import add_options, from_flags
from datasets.temporal_controls import TemporalControlSettings
from engines.arguments import classifier_parser
from engines.early_check import check_command_line
from engines.probe_settings import ProbeSettings, settle_probe


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of video training and testing."""
    parser = classifier_parser("VideoMambaPro: fine-tuning and evaluation on videos")
    add_options(parser.add_argument_group("probes"), ProbeSettings)
    add_options(parser.add_argument_group("controls of the test"), TemporalControlSettings)
    return parser


if __name__ == "__main__":
    check_command_line(SCRIPT, get_parser=get_parser)  # what follows takes seconds to import

from datasets.clip_dataset import ClipDataset
from datasets.held_out import build_with_held_out
from datasets.records import targets_of
from datasets.teacher_outputs import StoredTeacherSettings, read_teacher_outputs
from engines.configuration import parse_command_line
from engines.error_file import record
from engines.loss_settings import LossSettings
from engines.objectives.base import Objective
from engines.objectives.distillation import Distillation
from engines.objectives.probe import Probe
from engines.objectives.stored_teacher import StoredTeacher
from engines.objectives.tasks import create_objective, take_from_checkpoint
from engines.run import run_task
from engines.task import Task
from models.describe import describe_checkpoint
from models.videomambapro import VideoMambaPro
from reports.best_effort import try_to_report


def objective_of_labels(
    model: VideoMambaPro, args: argparse.Namespace, test_set: ClipDataset, train_set: ClipDataset | None
) -> Objective:
    """Create the objective of --task; without a training list, one for testing only."""
    targets = [] if train_set is None else targets_of(train_set.records)
    settings = None if train_set is None else from_flags(LossSettings, args)
    if train_set is not None and args.teacher_scores:
        return student(model, args, train_set, settings, targets)
    objective = create_objective(
        args.task,
        model,
        test_set.num_classes,
        settings,
        targets=targets,
        names=args.class_names,
        view_merge=args.view_merge,
    )
    if train_set is None and args.finetune and not args.resume:
        take_from_checkpoint(objective, describe_checkpoint(args.finetune))
    return objective


def student(
    model: VideoMambaPro, args: argparse.Namespace, train_set: ClipDataset, settings: LossSettings, labels: list[int]
) -> Distillation:
    """Create the objective of a run with --teacher_scores.

    Raises:
        ValueError: the task is another than classification, or see `read_teacher_outputs`.
    """
    if args.task != "classification":
        raise ValueError(f"--teacher_scores teaches classes, and this run has --task {args.task}; omit one of them")
    taught = from_flags(StoredTeacherSettings, args)
    outputs = read_teacher_outputs(
        taught, train_set.records, train_set.num_classes, list_file=train_set.list_file, data_root=args.data_root
    )
    return Distillation(
        model,
        train_set.num_classes,
        settings,
        teacher=StoredTeacher(model.embed_dim, outputs, taught.distill_temperature),
        weight=taught.distill_weight,
        label_weight=taught.label_weight,
        labels=labels,
        class_names=args.class_names,
    )


def probe(model: VideoMambaPro, args: argparse.Namespace, test_set: ClipDataset, train_set: ClipDataset) -> Probe:
    """Create the objective of a run with --probe."""
    return Probe(
        model,
        test_set.num_classes,
        from_flags(LossSettings, args),
        grid=from_flags(ProbeSettings, args).grid,
        labels=targets_of(train_set.records),
        class_names=args.class_names,
    )


TASK = Task(SCRIPT, get_parser, objective_of_labels)
PROBE = Task(SCRIPT, get_parser, probe, build_dataset=build_with_held_out)


@record
def main(flags: argparse.Namespace) -> None:
    """Train (unless --eval), then test all segments and crops of every test video."""
    run_task(PROBE if flags.probe and not flags.eval else TASK, flags, try_to_report)


if __name__ == "__main__":
    main(parse_command_line(get_parser(), script=SCRIPT, settle=settle_probe))
