"""Check of a command line before PyTorch is imported: unknown names, missing files, contradictory numbers.

Only a part of the flags is known here; the others, and what a checkpoint says, are checked by `engines.configuration`.
This module, and all that it imports, must do without torch.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.flag_parser import FlagParser
from common.flag_types import positive_int
from common.settings import add_options, from_flags
from datasets.lists import ListSettings, find_list_of, given_classes
from datasets.presets import get_preset
from datasets.sampling import ViewSettings, check_test_sizes
from engines.published_flags import translate
from engines.recipe import load_recipe, read_yaml

WHERE_WEIGHTS_ARE = "python -m tools.weights lists the published weights and where to get them (docs/weights.md)"

_VISION_TRANSFORMERS = ("vit_", "deit_", "pretrain_videomae")
_OWN_FILES = ("resume", "label_names", "train_list", "val_list", "test_list")
_WEIGHTS = ("finetune", "teacher")
_OF_THE_COMMAND_LINE = {"recipe", "config"}


def check_command_line(script: str, words: Sequence[str] | None = None, *, defaults: str = "") -> None:
    """End the process with status 2 and one line where a run's command line cannot be meant.

    Args:
        script: file name of the run script.
        words: of the command line; None for those of this process.
        defaults: the recipe whose flags serve where no recipe is named; empty for none.
    """
    words = list(sys.argv[1:] if words is None else words)
    if {"-h", "--help"} & set(words):
        return
    parser = _parser(script)
    try:
        words, _ = translate(words)
        _take_defaults(parser, words, script, defaults)
        flags, _ = parser.parse_known_args(words)
        _check(flags, script)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def check_inference(words: Sequence[str] | None = None) -> None:
    """End the process with status 2 and one line where a file that run_inference.py names is absent.

    Args:
        words: of the command line; None for those of this process.
    """
    parser = FlagParser(add_help=False)
    for name in ("checkpoint", "label_names", "recipe"):
        parser.add_argument(f"--{name}", default="")
    flags, _ = parser.parse_known_args(words)
    try:
        _require_file("checkpoint", flags.checkpoint, WHERE_WEIGHTS_ARE)
        _require_file("label_names", flags.label_names)
        if flags.recipe:
            load_recipe(flags.recipe)
    except ValueError as error:
        parser.error(str(error))


def _parser(script: str) -> FlagParser:
    """A parser of the flags that are checked here; all have the names and types of the run's parser."""
    parser = FlagParser(prog=script, add_help=False)
    for settings in (ListSettings, ViewSettings):
        add_options(parser, settings)
    for name in ("model", "recipe", "config", "resume", *_WEIGHTS):
        parser.add_argument(f"--{name}", default="")
    for name in ("eval", "disable_eval_during_finetuning"):
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--tubelet_size", type=positive_int, default=1)
    return parser


def _take_defaults(parser: FlagParser, words: Sequence[str], script: str, defaults: str) -> None:
    """Give the parser the defaults that --recipe or --config chooses, as `engines.configuration` does later."""
    named, _ = parser.parse_known_args(words)
    if named.recipe and named.config:
        raise ValueError("--recipe and --config both give defaults; use one of them")
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
        taken = {name: value for name, value in content.items() if name in known - _OF_THE_COMMAND_LINE}
        parser.set_defaults(**{name: value for name, value in taken.items() if value is not None})


def _check(flags: argparse.Namespace, script: str) -> None:
    """Check names, files and numbers; raises the ValueError or OSError that names the flag and the remedy."""
    if flags.model.startswith(_VISION_TRANSFORMERS):
        raise ValueError(
            f"--model {flags.model} is a vision transformer; the networks here are videomambapro_tiny, _small, "
            "_middle and videomamba_*. If the command is VideoMAE's, halve --lr too: it leaves --num_sample out"
        )
    get_preset(flags.data_set)
    for name in _WEIGHTS:
        _require_weights(name, getattr(flags, name))
    for name in _OWN_FILES:
        _require_file(name, getattr(flags, name))
    given_classes(from_flags(ListSettings, flags))
    _check_lists(flags, script)
    weights_decide = flags.eval and (flags.finetune or flags.resume)
    if not weights_decide:
        _check_sizes(flags, script)


def _check_lists(flags: argparse.Namespace, script: str) -> None:
    """Look for the lists that the run will read."""
    tests = script == "run_class_finetuning.py"
    modes = ["test" if tests else "validation"]
    if not flags.eval:
        modes += ["train"]
        modes += ["validation"] if not flags.disable_eval_during_finetuning else []
    settings = from_flags(ListSettings, flags)
    logging.disable(logging.WARNING)  # warnings are logged later, when the run reads its lists
    for mode in modes:
        find_list_of(mode, settings)
    logging.disable(logging.NOTSET)


def _check_sizes(flags: argparse.Namespace, script: str) -> None:
    if flags.num_frames % flags.tubelet_size:
        raise ValueError(f"--num_frames {flags.num_frames} must be a multiple of --tubelet_size {flags.tubelet_size}")
    views = from_flags(ViewSettings, flags)
    if script == "run_class_finetuning.py" and get_preset(flags.data_set).kind != "image":
        check_test_sizes(views.input_size, views.short_side)


def _require_weights(name: str, value: str) -> None:
    if "://" in value:
        raise ValueError(f"--{name} {value} is an address: download the file first, and name it here")
    _require_file(name, value, WHERE_WEIGHTS_ARE)


def _require_file(name: str, value: str, remedy: str = "") -> None:
    if value and not Path(value).is_file():
        raise ValueError(f"--{name} {value}: there is no such file{f'; {remedy}' if remedy else ''}")
