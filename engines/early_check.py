"""Check a command line before PyTorch is imported: names, missing files, and numbers that contradict each other.

Only some flags are known here; `engines.configuration` checks the others and the contents of checkpoints. This module
and its imports must not import torch.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Collection, Sequence
from itertools import takewhile
from pathlib import Path

from common.files import run_folder_fault, weights_fault
from common.flag_parser import FlagParser, typed_values
from common.flag_types import positive_int
from common.settings import add_options, from_flags
from datasets.detection.annotations import FULL, read_person_boxes
from datasets.detection.lists import (
    DetectionListSettings,
    find_annotations,
    find_label_map,
    find_person_boxes,
    split_of,
)
from datasets.lists import (
    ListSettings,
    find_list_of,
    find_training_list,
    given_classes,
    number_of_classes,
    read_records,
)
from datasets.presets import get_preset
from datasets.sampling import Mode, ViewSettings, check_test_sizes
from datasets.teacher_outputs import StoredTeacherSettings, read_teacher_outputs
from datasets.temporal_controls import TemporalControlSettings
from engines.loss_settings import LossSettings, MergeSettings, refuse_misfits
from engines.probe_settings import ProbeSettings
from engines.published_flags import translate
from engines.recipe import load_recipe, read_yaml
from engines.trackers import require_tracker
from models.arguments import MaskSettings

WEIGHTS_HINT = "python -m tools.weights lists the published weights and where to get them (docs/weights.md)"
TEACHERS_HINT = "docs/masked.md says which files serve"

_VISION_TRANSFORMERS = ("vit_", "deit_", "pretrain_videomae")
_FILE_FLAGS = (
    *("resume", "label_names", "train_list", "val_list", "test_list"),
    *("teacher_scores", "label_map", "train_csv", "val_csv", "test_csv", "person_boxes", "probe_list"),
)
_MASKED_PRETRAINING = "run_pretrain_masked.py"
# Flags without effect unless one of the others is given.
_DETAILS = {
    **dict.fromkeys(("distill_loss", "distill_temperature"), ("teacher_scores",)),
    **dict.fromkeys(("distill_weight", "label_weight"), ("teacher_scores", "teacher")),
    **dict.fromkeys(("probe_lrs", "probe_weight_decays"), ("probe",)),
    "stem_weights": ("stem",),
}
_NEVER_DEFAULTS = {"recipe", "config"}


def check_command_line(
    script: str,
    words: Sequence[str] | None = None,
    *,
    get_parser: Callable[[], argparse.ArgumentParser] | None = None,
    defaults: str = "",
    classifies: bool = True,
) -> None:
    """End the process with status 2 and one line if the command line of a run is wrong; answer --help.

    Args:
        script: File name of the run script.
        words: Words of the command line; None for those of this process.
        get_parser: Creates the parser of all flags of the script; None leaves --help and wrong flags to others.
        defaults: Recipe whose flags are the defaults when no recipe is named; empty for none.
        classifies: Whether the run reads lists of labelled clips rather than annotated boxes.
    """
    words = list(sys.argv[1:] if words is None else words)
    if _asks_for_help(words, get_parser):
        return
    labelled = (
        *(ListSettings, ViewSettings, LossSettings, MergeSettings, StoredTeacherSettings, ProbeSettings),
        TemporalControlSettings,
    )
    if script == _MASKED_PRETRAINING:
        labelled += (MaskSettings,)
    parser = _parser(script, *(labelled if classifies else (DetectionListSettings,)))
    try:
        complete = get_parser() if get_parser else parser
        words, _ = translate(words, complete._option_string_actions, script)
        if not classifies:
            _check_square(words)
        if get_parser:
            complete.parse_args(words)  # first: of --data_pth, only a missing list would be told
        _take_defaults(parser, words, script, defaults)
        flags, _ = parser.parse_known_args(words)
        _check_files(flags, script)
        if script == _MASKED_PRETRAINING:
            _check_pretraining(flags)
        elif classifies:
            if not flags.eval:  # the checkpoint knows the task of a test
                typed = typed_values(parser, words)
                refuse_misfits(flags.task, typed)
                _refuse_idle(typed, flags)
            _check_data(flags, script)
        else:
            _check_annotations(flags)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def _asks_for_help(words: Sequence[str], get_parser: Callable[[], argparse.ArgumentParser] | None) -> bool:
    """Print the help and end the process with status 0 if it is asked for, or return whether it is."""
    asked = bool({"-h", "--help"} & set(words))
    if asked and get_parser:
        get_parser().print_help()
        raise SystemExit(0)
    return asked


def check_inference(flags: argparse.Namespace) -> None:
    """Check the files that run_inference.py or run_demo_app.py, which has fewer flags, are given.

    Raises:
        ValueError: One is missing or faulty.
        FileNotFoundError: The boxes are missing.
    """
    given = {"truth": "", "live": "", "boxes": ""} | vars(flags)
    _require_weights("checkpoint", given["checkpoint"])
    for name in ("label_names", "truth"):
        _require_file(name, given[name])
    _check_live(given["live"])
    if given["recipe"]:
        load_recipe(given["recipe"])
    if given["boxes"] not in ("", FULL):
        read_person_boxes(given["boxes"], 0)


def _parser(script: str, *groups: type) -> FlagParser:
    """Return a parser of the flags that are checked here, with the names and types of the run's parser."""
    parser = FlagParser(prog=script, add_help=False)
    for settings in groups:
        add_options(parser, settings)
    files = ("recipe", "config", "resume", "probe_list", "finetune", "teacher", "stem_weights")
    for name in ("model", "stem", "track", *files):
        parser.add_argument(f"--{name}", default="")
    for name in ("eval", "disable_eval_during_finetuning"):
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--tubelet_size", type=positive_int, default=1)
    parser.add_argument("--sampler", default="")
    return parser


def _take_defaults(parser: FlagParser, words: Sequence[str], script: str, defaults: str) -> None:
    """Set the parser's defaults from --recipe or --config, as `engines.configuration` does later."""
    named, _ = parser.parse_known_args(words)
    if named.recipe and named.config:
        raise ValueError("--recipe and --config both set defaults; use one of them")
    known = vars(named).keys()
    if named.config:
        content = read_yaml(Path(named.config))
    elif named.recipe or defaults:
        recipe = load_recipe(named.recipe or defaults)
        recipe.check_script(script)
        content = recipe.flags
    else:
        return
    if isinstance(content, dict):
        taken = {name: value for name, value in content.items() if name in known - _NEVER_DEFAULTS}
        parser.set_defaults(**{name: value for name, value in taken.items() if value is not None})


def _check_files(flags: argparse.Namespace, script: str) -> None:
    """Check the name of the model, and that all files exist."""
    if flags.model.startswith(_VISION_TRANSFORMERS):
        raise ValueError(
            f"--model {flags.model} is a vision transformer; the networks here are videomambapro_tiny, _small, "
            "_middle and videomamba_*. If the command is VideoMAE's, halve --lr too: VideoMAE does not multiply it by "
            "--num_sample"
        )
    _require_weights("finetune", flags.finetune)
    _require_weights("teacher", flags.teacher, TEACHERS_HINT if script == _MASKED_PRETRAINING else WEIGHTS_HINT)
    _require_weights("stem_weights", flags.stem_weights, "timm's own weights are downloaded without the flag")
    if flags.resume and (fault := run_folder_fault(flags.resume)):
        raise ValueError(f"--resume {fault}")
    for name in _FILE_FLAGS:
        _require_file(name, vars(flags).get(name, ""))
    require_tracker(flags.track)


def _check_annotations(flags: argparse.Namespace) -> None:
    """Check that the files of a detection run exist, and read its label map."""
    settings = from_flags(DetectionListSettings, flags)
    find_label_map(settings)
    modes: list[Mode] = ["test"] if flags.eval else ["train", "test"]
    splits: list[Mode] = [split_of(mode, settings) for mode in modes]
    for split in splits:
        find_annotations(split, settings)
        if split != "train" and settings.eval_boxes == "predicted":
            find_person_boxes(split, settings)


def _refuse_idle(typed: Collection[str], flags: argparse.Namespace) -> None:
    """Refuse the details of a teacher, a probe or a stem in a run that has none."""
    for name in typed:
        owners = _DETAILS.get(name, ())
        if owners and not any(getattr(flags, owner) for owner in owners):
            owner = "a teacher" if len(owners) > 1 else f"--{owners[0]}"
            raise ValueError(f"--{name} does nothing without {owner}; omit it")


def _check_pretraining(flags: argparse.Namespace) -> None:
    """Check that a masked pretraining has a teacher and a training list, and no lists that it would not read."""
    for name in ("val_list", "test_list", "label_names"):
        if getattr(flags, name):
            raise ValueError(f"--{name} has no meaning here: masked pretraining is tested with --probe_list FILE")
    if flags.eval:
        return
    if not flags.teacher:
        raise ValueError(
            "masked pretraining aligns the student with a teacher: name its weights with --teacher FILE "
            f"({TEACHERS_HINT})"
        )
    find_training_list(from_flags(ListSettings, flags))


def _check_data(flags: argparse.Namespace, script: str) -> None:
    """Check the dataset, the lists and the sizes."""
    given_classes(from_flags(ListSettings, flags))
    _check_lists(flags, script)
    if flags.teacher_scores and not flags.eval:
        _check_teacher(flags)
    weights_decide = flags.eval and (flags.finetune or flags.resume)
    if not weights_decide:
        _check_sizes(flags, script)


def _check_lists(flags: argparse.Namespace, script: str) -> None:
    """Check that the lists of the run exist."""
    tested: Mode = "test" if script == "run_class_finetuning.py" else "validation"
    modes: list[Mode] = [tested]
    if not flags.eval:
        modes.append("train")
    if not (flags.eval or flags.disable_eval_during_finetuning or flags.probe):
        modes.append("validation")
    settings = from_flags(ListSettings, flags)
    logging.disable(logging.WARNING)  # the run itself warns when it reads its lists
    try:
        for mode in modes:
            find_list_of(mode, settings)
    finally:
        logging.disable(logging.NOTSET)


def _check_teacher(flags: argparse.Namespace) -> None:
    """Check that the teacher's outputs can be used and have every line of the training list."""
    if flags.task != "classification":
        raise ValueError(f"--teacher_scores teaches classes, and this run has --task {flags.task}; omit one of them")
    settings, taught = from_flags(ListSettings, flags), from_flags(StoredTeacherSettings, flags)
    file = find_list_of("train", settings)
    records, _ = read_records(file, settings)
    classes = number_of_classes(settings)
    read_teacher_outputs(taught, records, classes, list_file=str(file), data_root=settings.data_root)


def _check_square(words: Sequence[str]) -> None:
    """Refuse `--input_size 128 224`, whose second number would otherwise be reported as an unknown argument."""
    place = next((i for i, word in enumerate(words) if word.replace("-", "_") == "__input_size"), len(words))
    sizes = list(takewhile(str.isdigit, words[place + 1 :]))
    if len(sizes) > 1:
        raise ValueError(
            f"--input_size {' '.join(sizes)}: the training clips of a detector are square; give one number, the side "
            "in pixels"
        )


def _check_sizes(flags: argparse.Namespace, script: str) -> None:
    if flags.num_frames % flags.tubelet_size:
        raise ValueError(f"--num_frames {flags.num_frames} must be a multiple of --tubelet_size {flags.tubelet_size}")
    views = from_flags(ViewSettings, flags)
    if script == "run_class_finetuning.py" and get_preset(flags.data_set).kind != "image":
        check_test_sizes(views.input_size, views.short_side)


def _check_live(name: str) -> None:
    if name and not (name.isdecimal() or "://" in name or name == "-" or Path(name).exists()):
        raise ValueError(
            f"--live {name}: there is no such file or FIFO; a camera is a number, a stream an address (rtsp://, "
            "udp://), standard input -"
        )


def _require_weights(name: str, value: str, remedy: str = WEIGHTS_HINT) -> None:
    if "://" in value:
        raise ValueError(f"--{name} {value} is an address: download the file and give its path")
    if value and (fault := weights_fault(value, remedy)):
        raise ValueError(f"--{name} {fault}")


def _require_file(name: str, value: str) -> None:
    if value and not Path(value).is_file():
        raise ValueError(f"--{name} {value}: there is no such file")
