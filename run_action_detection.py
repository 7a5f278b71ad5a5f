"""Train and test an action detector: `python run_action_detection.py --data_path LISTS --data_root MOVIES ...`.

Boxes are part of the data: training uses those of the ground truth, evaluation those of any person detector
(docs/detection.md). Everything else works as in run_class_finetuning.py: the script runs alone, under torchrun or
under SLURM, `--finetune FILE` starts from the weights of a classifier, `--eval` only tests, `--recipe
ava/tiny_f16_res224` uses a recipe, and `--dry_run` checks everything and stops.
"""

import argparse
import hashlib

from engines.early_stop import leave_on_signals

SCRIPT = "run_action_detection.py"

if __name__ == "__main__":
    leave_on_signals()

from common.flag_parser import FlagParser
from common.settings import add_options, from_flags
from datasets.detection.arguments import DetectionSettings, add_detection_arguments
from engines.arguments import add_engine_arguments
from engines.early_check import check_command_line
from engines.recipe_flags import add_recipe_arguments
from engines.settings import DetectionTestSettings
from models.arguments import add_model_arguments


def get_parser() -> argparse.ArgumentParser:
    """Create the parser with all flags."""
    parser = FlagParser(description="VideoMambaPro: training and evaluation of action detectors")
    add_model_arguments(parser, detector=True)
    add_detection_arguments(parser)
    add_engine_arguments(parser)
    add_options(parser.add_argument_group("evaluation of detections"), DetectionTestSettings)
    add_recipe_arguments(parser)
    return parser


if __name__ == "__main__":
    check_command_line(SCRIPT, get_parser=get_parser, classifies=False)  # what follows takes seconds to import

from datasets.detection.build import build_detection_dataset, build_detection_loader
from datasets.detection.keyframe_dataset import KeyframeDataset
from datasets.detection.lists import find_label_map
from engines.configuration import parse_command_line
from engines.error_file import record
from engines.objectives.detection import Detection, class_frequencies
from engines.run import run_task
from engines.task import Task
from models.detection import ActionDetector
from reports.best_effort import try_to_report


def note_classes(flags: argparse.Namespace) -> None:
    """Add `class_names` and `class_ids` of the label map to the flags, so that args.json and checkpoints contain them.

    Raises:
        FileNotFoundError: There is no label map.
        ValueError: The label map is faulty, or its classes differ from those of the checkpoint.
    """
    label_map = find_label_map(DetectionSettings.from_flags(flags))
    if flags.class_names and list(flags.class_names) != list(label_map.names):
        raise ValueError(
            f"{label_map.path} differs from the classes of the checkpoint, in names or order: it has "
            f"{len(label_map)} classes from {label_map.names[0]} to {label_map.names[-1]}, the checkpoint "
            f"{len(flags.class_names)} from {flags.class_names[0]} to {flags.class_names[-1]}"
        )
    flags.class_names, flags.class_ids = list(label_map.names), list(label_map.ids)


def detect(
    model: ActionDetector, args: argparse.Namespace, test_set: KeyframeDataset, train_set: KeyframeDataset | None
) -> Detection:
    """Create the objective. The bias of a new head is initialised from the frequencies of the training classes."""
    if train_set is not None and not model.head.bias.any():
        model.expect(class_frequencies(train_set.records, train_set.label_map))
    settings = from_flags(DetectionTestSettings, args)
    about = {
        "eval_boxes": args.eval_boxes,
        "box_threshold": args.box_threshold if test_set.person_file else None,
        "person_score": settings.person_score,
        "max_rows_per_frame": settings.max_rows_per_frame,
        "person_boxes": test_set.person_file or None,
        "person_boxes_sha256": _sha256(test_set.person_file) if test_set.person_file else None,
    }
    return Detection(model, test_set.label_map, settings, excluded=test_set.excluded, about=about)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


TASK = Task(SCRIPT, get_parser, detect, DetectionSettings.from_flags, build_detection_dataset, build_detection_loader)


@record
def main(flags: argparse.Namespace) -> None:
    """Train (unless --eval), then test every second of the test movies."""
    run_task(TASK, flags, try_to_report)


if __name__ == "__main__":
    main(parse_command_line(get_parser(), script=SCRIPT, settle=note_classes))
