"""Flags whose defaults come from files: recipes and saved settings. PyTorch is not imported."""

import argparse
import difflib
from pathlib import Path
from typing import Any

from common.flag_types import non_negative_int
from common.frame_size import StoreSize, as_flag
from engines.recipe import RecipeError, load_recipe


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a run's settings, and --dry_run."""
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--recipe",
        default="",
        metavar="FILE/RUN",
        help="published run whose settings become the defaults, such as k400/tiny_f16_res224 (see recipes/); a FILE "
        "alone gives the settings that all its runs share",
    )
    group.add_argument(
        "--config",
        default="",
        metavar="FILE",
        help="saved settings as defaults: the args.json of a run, or flags as YAML",
    )
    group.add_argument(
        "--global_batch",
        type=non_negative_int,
        default=0,
        help="videos per optimizer step over all processes; batch_size and update_freq are adapted to the number of "
        "processes, unless given (default: 0, the recipe's)",
    )
    group.add_argument(
        "--dry_run",
        type=non_negative_int,
        nargs="?",
        const=0,
        default=None,
        metavar="PROCESSES",
        help="check lists and files, build everything, estimate memory and hours for this number of processes "
        "(default: the processes started), and stop",
    )


def recipe_defaults(parser: argparse.ArgumentParser, name: str) -> None:
    """Make the flags of a recipe the defaults of `parser`, for a script with a default recipe."""
    recipe = load_recipe(name)
    parser.set_defaults(**check_flags(parser, recipe.flags, recipe.file))


def check_flags(parser: argparse.ArgumentParser, flags: dict[str, Any], file: Path) -> dict[str, Any]:
    """Convert values from a file to the flags' types, as the command line would.

    Args:
        parser: with the flags.
        flags: values by name.
        file: where they were read, for the error message.

    Returns:
        the converted values.

    Raises:
        RecipeError: a name is not a flag, or a value is invalid; the message names `file` and the flag.
    """
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    checked = {}
    for name, value in flags.items():
        if name not in actions:
            near = difflib.get_close_matches(name, actions, n=1)
            raise RecipeError(f"{file}: {name} is not a flag{f'; did you mean {near[0]}?' if near else ''}")
        try:
            checked[name] = _value(actions[name], value)
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            raise RecipeError(f"{file}: {name}: {value!r} is not a value of --{name} ({error})") from error
    return checked


def _value(action: argparse.Action, value: Any) -> Any:
    """Convert a value from a file to the flag's type; raise an error that says what is expected."""
    if value is None:
        if action.default is not None:
            raise ValueError("expected a value")
        return None
    if isinstance(action.const, bool) or isinstance(action, argparse.BooleanOptionalAction):
        if not isinstance(value, bool):
            raise ValueError("expected true or false")
        return value
    convert: Any = action.type or str
    if isinstance(action, StoreSize):
        return as_flag([convert(str(side)) for side in (value if isinstance(value, list) else [value])])
    if action.nargs in ("+", "*") or isinstance(action.nargs, int):
        return [convert(str(item)) for item in value]
    if isinstance(value, (bool, list, dict)):
        raise ValueError("expected a single value")
    converted = convert(str(value))
    # The default may be none of the choices: it then stands for "not chosen".
    if action.choices is not None and converted not in (*action.choices, action.default):
        raise ValueError(f"expected one of {', '.join(map(str, action.choices))}")
    return converted
