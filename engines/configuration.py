"""From the command line to the flags of a run: recipes and saved settings give defaults, flags override them.

`parse_arguments` takes the place of `parser.parse_args`. In order, the later winning: the parser's defaults, --recipe
or --config, what a checkpoint to evaluate says of itself, the command line. Batches are fitted last.
"""

import argparse
import difflib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.flag_types import non_negative_int
from datasets.label_names import read_label_names
from engines.checkpoint_flags import settle_from_checkpoint
from engines.distributed import place_from_environment
from engines.logs import setup_logging
from engines.recipe import Recipe, RecipeError, load_recipe, read_yaml

_logger = logging.getLogger(__name__)

# What a saved args.json holds that is of that run alone.
_NOT_TAKEN_BACK = {"recipe", "config", "overridden", "dry_run", "device", "class_names"}


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a run's settings, and --dry_run."""
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--recipe",
        default="",
        metavar="FILE/RUN",
        help="published run whose settings become the defaults, such as k400/tiny_f16_res224 (see "
        "recipes/); a FILE alone gives what its runs share",
    )
    group.add_argument(
        "--config", default="", metavar="FILE", help="settings to take back: the args.json of a run, or flags as YAML"
    )
    group.add_argument(
        "--global_batch",
        type=non_negative_int,
        default=0,
        help="videos of an optimiser update over all processes; batch_size and update_freq are fitted "
        "to the number of processes, unless given (default: 0, the recipe's)",
    )
    group.add_argument(
        "--dry_run",
        type=non_negative_int,
        nargs="?",
        const=0,
        default=None,
        metavar="PROCESSES",
        help="check lists and files, build everything, estimate memory and hours for so many processes "
        "(default: those started), and stop",
    )


def parse_arguments(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None, *, script: str
) -> argparse.Namespace:
    """Parse the command line with recipes, saved settings and checkpoints as the source of defaults.

    Args:
        parser: has the flags of `add_recipe_arguments`.
        argv: words of the command line; None for those of this process.
        script: file name of the run script, which a recipe must be for.

    Returns:
        the flags, with `overridden`: a list of what the command line changed in the recipe, and `class_names`: those
        of --label_names, or None.

    Raises:
        RecipeError: the recipe or file is not there, or a key or value in it is none of the flags'.
        ValueError: flags contradict the checkpoint to evaluate, or --label_names holds no names.
    """
    rank, world_size, _ = place_from_environment()
    setup_logging(rank)
    unset = object()
    blank = argparse.Namespace(**dict.fromkeys(vars(parser.parse_args([])), unset))
    given = {name for name, value in vars(parser.parse_args(argv, blank)).items() if value is not unset}
    first = parser.parse_args(argv)
    if first.recipe and first.config:
        raise RecipeError("--recipe and --config both give defaults; use one of them")
    recipe, chosen = None, {}
    if first.recipe:
        recipe = load_recipe(first.recipe)
        _check_script(recipe, script)
        chosen = check_flags(parser, recipe.flags, recipe.file)
        if recipe.global_batch:
            chosen["global_batch"] = recipe.global_batch
    elif first.config:
        chosen = _read_config(parser, Path(first.config))
    parser.set_defaults(**chosen)
    args = parser.parse_args(argv)
    args.overridden = [
        f"{name} {chosen[name]} -> {getattr(args, name)}"
        for name in sorted(given & chosen.keys())
        if getattr(args, name) != chosen[name]
    ]
    args.class_names = read_label_names(args.label_names) if args.label_names else None
    settle_from_checkpoint(args, given | chosen.keys())
    _tell(args, recipe)
    if not args.eval:
        fit_batch(args, given, args.dry_run or world_size)
    return args


def parse_command_line(parser: argparse.ArgumentParser, *, script: str) -> argparse.Namespace:
    """Parse the words of this process as `parse_arguments` does; what it refuses ends the process with a sentence."""
    try:
        return parse_arguments(parser, script=script)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def recipe_defaults(parser: argparse.ArgumentParser, name: str) -> None:
    """Make the flags of a recipe the defaults of `parser`, for a script that has a recipe of its own."""
    recipe = load_recipe(name)
    parser.set_defaults(**check_flags(parser, recipe.flags, recipe.file))


def check_flags(parser: argparse.ArgumentParser, flags: dict[str, Any], file: Path) -> dict[str, Any]:
    """Give the values the flags' types, as the command line would.

    Raises:
        RecipeError: a key is no flag, or a value is none of the flag's; names `file` and the key.
    """
    # Of two flags that set one value, such as --bf16 and --no_bf16, the first has the default.
    actions = {action.dest: action for action in reversed(parser._actions) if action.dest != "help"}
    checked = {}
    for name, value in flags.items():
        if name not in actions:
            near = difflib.get_close_matches(name, actions, n=1)
            raise RecipeError(f"{file}: {name} is no flag{f'; did you mean {near[0]}?' if near else ''}")
        try:
            checked[name] = _value(actions[name], value)
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            raise RecipeError(f"{file}: {name}: {value!r} is no value of --{name} ({error})") from error
    return checked


@dataclass(frozen=True)
class Batch:
    """Videos per process and step, steps per update, and videos per update over all processes."""

    batch_size: int
    update_freq: int
    total: int


def share_batch(global_batch: int, batch_size: int, processes: int, *, even: bool, fixed: bool = False) -> Batch:
    """Find steps of at most `batch_size` videos that make up `global_batch` on `processes`, else come near it.

    The largest step is taken that meets it exactly. Where none above half of `batch_size` does, the accumulation is
    the least possible and the step what comes nearest.

    Args:
        even: steps must be even (mixup pairs the clips of a step, which are as many as its videos).
        fixed: keep `batch_size`.
    """
    step = 2 if even else 1
    largest = batch_size if fixed else max(step, min(batch_size, math.ceil(global_batch / processes)))
    for size in [largest] if fixed else range(largest // step * step, largest // 2, -step):
        if global_batch % (size * processes) == 0:
            return Batch(size, global_batch // (size * processes), global_batch)
    if fixed:
        steps = max(1, round(global_batch / (batch_size * processes)))
        return Batch(batch_size, steps, batch_size * processes * steps)
    steps = math.ceil(global_batch / (largest * processes))
    size = max(step, round(global_batch / (processes * steps) / step) * step)
    return Batch(size, steps, size * processes * steps)


def fit_batch(args: argparse.Namespace, given: set[str], processes: int) -> None:
    """Set args.batch_size and args.update_freq so that `processes` make up args.global_batch, where that is set.

    A given --update_freq is left alone, and so is a given --batch_size. What cannot be met is told with the learning
    rate that follows; it is scaled with the videos per update in any case (engines/optim.py).
    """
    if not args.global_batch:
        return
    wanted = args.global_batch
    if "update_freq" in given:
        batch = Batch(args.batch_size, args.update_freq, args.batch_size * processes * args.update_freq)
    else:
        batch = share_batch(
            wanted, args.batch_size, processes, even=_mixes_single_clips(args), fixed="batch_size" in given
        )
    args.batch_size, args.update_freq = batch.batch_size, batch.update_freq
    _logger.info(
        "%d video(s) x %d process(es) x %d accumulated batch(es) = %d videos per update",
        batch.batch_size,
        processes,
        batch.update_freq,
        batch.total,
    )
    if batch.total != wanted:
        _logger.warning(
            "the batch of %d videos per update becomes %d, and the learning rate is scaled with it: "
            "--lr %g means %.3g x its effective value at %d",
            wanted,
            batch.total,
            args.lr,
            batch.total / wanted,
            wanted,
        )


def fit_batch_to_list(args: argparse.Namespace, videos: int, processes: int) -> None:
    """Lower a recipe's batch where the training list has fewer videos than one update takes, and say so.

    Without a recipe or --global_batch nothing is changed, and the loader refuses a list that fills no step.
    """
    mine = videos // processes
    if not args.global_batch or mine == 0 or mine >= args.batch_size * args.update_freq:
        return
    step = 2 if _mixes_single_clips(args) and mine > 1 else 1
    size = min(args.batch_size, mine) // step * step
    wanted = args.batch_size * args.update_freq * processes
    args.batch_size, args.update_freq = size, max(1, mine // size)
    total = args.batch_size * args.update_freq * processes
    _logger.warning(
        "the training list has %d videos and one update takes %d: it takes %d now, and the learning rate falls with "
        "it; a smaller --global_batch gives more updates an epoch",
        videos,
        wanted,
        total,
    )


def _mixes_single_clips(args: argparse.Namespace) -> bool:
    """Whether a step must have an even number of videos, since mixup pairs its clips."""
    mixes = args.mixup > 0 or args.cutmix > 0 or args.cutmix_minmax is not None
    return mixes and args.num_sample % 2 == 1


def _check_script(recipe: Recipe, script: str) -> None:
    if recipe.script != script:
        raise RecipeError(f"recipe {recipe.name} ({recipe.file}) is for {recipe.script}, not for {script}")


def _read_config(parser: argparse.ArgumentParser, file: Path) -> dict[str, Any]:
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise RecipeError(f"{file} should hold flags and their values")
    return check_flags(parser, {k: v for k, v in content.items() if k not in _NOT_TAKEN_BACK}, file)


def _value(action: argparse.Action, value: Any) -> Any:
    """A value from a file as the flag's type; raises what says that it is none."""
    if value is None:
        if action.default is not None:
            raise ValueError("a value is wanted")
        return None
    if isinstance(action.const, bool) or isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise ValueError("true or false")
        return value
    convert = action.type or str
    if action.nargs in ("+", "*") or isinstance(action.nargs, int):
        return [convert(str(item)) for item in value]
    if isinstance(value, (bool, list, dict)):
        raise ValueError("a single value is wanted")
    converted = convert(str(value))
    if action.choices is not None and converted not in action.choices:
        raise ValueError(f"one of {', '.join(map(str, action.choices))}")
    return converted


def _tell(args: argparse.Namespace, recipe: Recipe | None) -> None:
    """Log which settings the run has and what was changed in them."""
    if recipe is None and not args.config:
        return
    name = f"recipe {recipe.name}" if recipe else f"settings of {args.config}"
    _logger.info("%s; overridden: %s", name, ", ".join(args.overridden) or "nothing")
    if recipe and recipe.reported:
        _logger.info("reported top-1: %s", ", ".join(f"{k} {v} %" for k, v in recipe.reported.items()))
    if recipe and recipe.init and not (args.finetune or args.eval or args.resume):
        _logger.warning(
            "%s starts from weights (%s), and no --finetune FILE names them: the run starts from random weights",
            recipe.name,
            recipe.init,
        )
    if recipe and recipe.teacher and not (getattr(args, "teacher", "") or args.eval):
        _logger.warning(
            "%s distils from a teacher (%s), and no --teacher FILE names it: the run trains on labels alone",
            recipe.name,
            recipe.teacher,
        )
