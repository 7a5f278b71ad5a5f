"""From the command line to the flags of a run: recipes and saved settings give defaults, flags override them.

`parse_arguments` replaces `parser.parse_args`. In increasing priority: the parser's defaults, --recipe or --config,
the configuration in the checkpoint to evaluate, the command line. The batch is adapted to --global_batch at the end.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.flag_parser import typed_values
from common.settings import as_typed
from datasets.arguments import DataSettings
from datasets.label_names import read_label_names
from datasets.lists import count_videos
from engines.batch import check_mixing, fit_batch
from engines.checkpoint_flags import settle_from_checkpoint
from engines.distributed import place_from_environment
from engines.logs import setup_logging
from engines.loss_settings import refuse_misfits, switch_off_misfits
from engines.machine import settle_workers
from engines.published_flags import translate
from engines.recipe import Recipe, RecipeError, load_recipe, read_yaml
from engines.recipe_flags import check_flags

_logger = logging.getLogger(__name__)

Settle = Callable[[argparse.Namespace], None]

# Entries of a saved args.json that --config does not restore; version 0.1.0 saved dist_eval, which had no effect.
_NOT_RESTORED = {"recipe", "config", "overridden", "dry_run", "device", "class_names", "class_ids", "dist_eval"}


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None, *, script: str, settle: Settle | None = None
) -> argparse.Namespace:
    """Parse the command line, with defaults from recipes, saved settings and checkpoints.

    Args:
        parser: has the flags of `add_recipe_arguments`.
        argv: arguments; None for those of this process.
        script: file name of the run script; the recipe must be for this script.
        settle: the script's own checks of the flags, which may complete them.

    Returns:
        the flags, with `overridden`, a list of the recipe's settings that the command line changed, and
        `class_names`, the content of --label_names or None.

    Raises:
        RecipeError: the recipe or file does not exist, or contains an unknown flag or invalid value.
        RefusedFlagError: a flag of another code base would change the result.
        ValueError: flags contradict the checkpoint, or --label_names contains no names.
    """
    rank, world_size, _ = place_from_environment()
    setup_logging(rank)
    argv, notes = translate(sys.argv[1:] if argv is None else argv, parser._option_string_actions, script)
    typed = typed_values(parser, argv)
    given = set(typed)
    first = parser.parse_args(argv)
    if first.recipe and first.config:
        raise RecipeError("--recipe and --config both set defaults; use one of them")
    recipe, chosen = None, {}
    if first.recipe:
        recipe = load_recipe(first.recipe)
        recipe.check_script(script)
        chosen = check_flags(parser, recipe.flags, recipe.file)
        if recipe.global_batch:
            chosen["global_batch"] = recipe.global_batch
        if first.eval:
            chosen.pop("finetune", None)  # the weights to start from are not the weights to test
    elif first.config:
        chosen = _read_config(parser, Path(first.config))
    parser.set_defaults(**chosen)
    args = parser.parse_args(argv)
    if recipe and recipe.choices and not args.eval:
        chosen |= _choose(parser, recipe, args)
        parser.set_defaults(**chosen)
        args = parser.parse_args(argv)
    args.overridden = [
        f"{name} {as_typed(chosen[name])} -> {as_typed(value)}"
        for name, value in sorted(vars(args).items())
        if name in given & chosen.keys() and value != chosen[name]
    ]
    label_names = vars(args).get("label_names")
    args.class_names = read_label_names(label_names) if label_names else _names_of_resumed(args)
    settle_from_checkpoint(vars(args), given | chosen.keys())
    if "task" in args:
        refuse_misfits(args.task, typed)
        switch_off_misfits(vars(args))
    if settle is not None:
        settle(args)
    settle_workers(vars(args))
    for note in notes:
        _logger.warning("%s", note)
    _log_settings(vars(args), recipe, script)
    if not args.eval:
        vars(args).update(fit_batch(vars(args), given, args.dry_run or world_size))
        check_mixing(vars(args))
    return args


def _names_of_resumed(args: argparse.Namespace) -> list[str] | None:
    """Return the class names of the run in --output_dir, which it keeps when it is resumed without --label_names."""
    saved = Path(args.output_dir) / "args.json"
    given = args.resume or args.eval  # a checkpoint, which tells the names itself
    resumes = not given and args.auto_resume and args.output_dir and any(saved.parent.glob("checkpoint-*.pth"))
    return read_yaml(saved).get("class_names") if resumes and saved.is_file() else None


def parse_command_line(
    parser: argparse.ArgumentParser, *, script: str, settle: Settle | None = None
) -> argparse.Namespace:
    """Parse this process's arguments as `parse_arguments` does; exit with a one-line message if they are invalid."""
    with refused_in_one_line(parser):
        return parse_arguments(parser, script=script, settle=settle)


@contextmanager
def refused_in_one_line(parser: argparse.ArgumentParser) -> Iterator[None]:
    """End the process with status 2 and one line if lists, files or flags prove invalid during set-up."""
    try:
        yield
    except (ValueError, OSError) as error:
        _logger.debug("refused", exc_info=True)
        parser.error(str(error))


def _choose(parser: argparse.ArgumentParser, recipe: Recipe, args: argparse.Namespace) -> dict[str, Any]:
    """Take the row of the recipe's choices that the training list and the initial weights ask for, and say so."""
    videos = count_videos(DataSettings.from_flags(args))
    weights = args.finetune or args.resume
    row = recipe.choose(videos, weights=bool(weights))
    about = row.pop("about", "")
    _logger.info(
        "%s, %d training videos, starting from %s: %s (%s)",
        recipe.name,
        videos,
        weights or (f"{args.stem} below random blocks" if args.stem else "random weights"),
        about,
        ", ".join(f"{name} {value}" for name, value in row.items()),
    )
    return check_flags(parser, row, recipe.file)


def _read_config(parser: argparse.ArgumentParser, file: Path) -> dict[str, Any]:
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise RecipeError(f"{file} must contain flags and their values")
    # None is the value of a flag that nobody gave.
    given = {name: value for name, value in content.items() if value is not None and name not in _NOT_RESTORED}
    return check_flags(parser, given, file)


def _log_settings(flags: dict[str, Any], recipe: Recipe | None, script: str) -> None:
    """Log the recipe or settings of the run, the flags that override it, and flags that are missing."""
    from_scratch = not (flags["finetune"] or flags["eval"] or flags["resume"] or flags.get("stem"))
    if from_scratch and script == "run_class_finetuning.py" and not (recipe and recipe.init):
        _logger.warning(
            "no --finetune FILE: the run starts from random weights, unless it resumes; python -m tools.weights lists "
            "published weights (VideoMamba's scripts load ImageNet weights by themselves)"
        )
    if recipe is None and not flags["config"]:
        return
    name = f"recipe {recipe.name}" if recipe else f"settings of {flags['config']}"
    _logger.info("%s; overridden: %s", name, ", ".join(flags["overridden"]) or "nothing")
    if recipe and recipe.reported:
        measure = "mAP" if script == "run_action_detection.py" else "top-1"
        _logger.info("reported %s: %s", measure, ", ".join(f"{k} {v} %" for k, v in recipe.reported.items()))
    if recipe and recipe.init and from_scratch:
        _logger.warning(
            "%s fine-tunes weights (%s), but --finetune FILE is missing: the run starts from random weights "
            "(python -m tools.weights lists the published ones)",
            recipe.name,
            recipe.init,
        )
    if recipe and recipe.teacher and not (flags.get("teacher") or flags["eval"]):
        _logger.warning(
            "%s distils from a teacher (%s), but --teacher FILE is missing: the run trains on labels alone",
            recipe.name,
            recipe.teacher,
        )
