"""Settings of a component as a dataclass that also defines its command-line flags.

@dataclass(frozen=True)
class Schedule:
    epochs: int = option(50, "epochs in all", positive_int)
    warmup_epochs: float = option(5.0, "epochs of linear warm-up", non_negative)

add_options(parser.add_argument_group("schedule"), Schedule)
schedule = from_flags(Schedule, parser.parse_args())
"""

import argparse
import builtins
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

Kind = TypeVar("Kind")
_KEY = "option"


def option(
    default: Any,
    help: str,
    type: Callable[[str], Any] | None = None,
    *,
    choices: Sequence[str] = (),
    names: Sequence[str] = (),
    nargs: int | str | None = None,
    metavar: str | tuple[str, ...] | None = None,
    action: builtins.type[argparse.Action] | None = None,
) -> Any:
    """Declare a field of a settings dataclass together with its flag.

    Args:
        default: of the field and the flag. A bool creates a pair of flags, `--x` and `--no-x`; a tuple creates a flag
            with as many values.
        help: help text, with units; the default is appended unless the text mentions it.
        type: converts and checks a value of the command line (common/flag_types.py); the type of the default if None.
        choices: allowed values; empty for any.
        names: other names of the flag, without dashes.
        nargs: number of values, as in argparse; by default one, or the length of a tuple.
        metavar: name of the value in the help.
        action: stores the values, as in argparse.
    """
    return dataclasses.field(
        default=default,
        metadata={
            _KEY: dict(help=help, type=type, choices=choices, names=names, nargs=nargs, metavar=metavar, action=action)
        },
    )


def flag(default: bool | None, help: str) -> Any:
    """Declare a switch, `--x` and `--no-x`; a default of None leaves the choice to the component."""
    return dataclasses.field(default=default, metadata={_KEY: {"help": help, "switch": True}})


def add_options(group, kind: type) -> None:
    """Add the flags of all fields of a settings dataclass that were declared with `option` or `flag`.

    Args:
        group: an argument parser or one of its groups.
        kind: the dataclass.
    """
    for field in dataclasses.fields(kind):
        about = field.metadata.get(_KEY)
        if about is None:
            continue
        default: Any = field.default
        several = list(default) if isinstance(default, tuple) else None
        text = about["help"]
        if "switch" in about or isinstance(default, bool):
            group.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, default=default, help=text)
            continue
        if default not in (None, "", ()) and "(default" not in text:
            text += f" (default: {default if several is None else ' '.join(map(str, several))})"
        example = several[0] if several else default
        group.add_argument(
            *(f"--{name}" for name in (field.name, *about["names"])),
            dest=field.name,
            default=default if several is None else several,
            type=about["type"] or (str if example is None else type(example)),
            nargs=about["nargs"] or (len(several) if several else None),
            choices=about["choices"] or None,
            metavar=about["metavar"],
            action=about["action"],
            help=text,
        )


def from_flags(kind: type[Kind], flags: argparse.Namespace, /, **values: Any) -> Kind:
    """Build a settings dataclass from parsed flags.

    Args:
        kind: the dataclass; its fields have the flags' names.
        flags: the parser's result.
        values: fields that override the flags or have no flag.
    """
    taken = {
        field.name: getattr(flags, field.name)
        for field in dataclasses.fields(cast(Any, kind))
        if field.name not in values
    }
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in taken.items()}, **values
    )


def as_typed(value: Any) -> str:
    """Return a flag's value as it is typed, the items of a list apart: "128 224"."""
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def check_choices(settings: Any) -> None:
    """Check that values are among their fields' choices, for settings that were not created by a parser.

    Raises:
        ValueError: a value is not among them; the message names the field and its choices.
    """
    for field in dataclasses.fields(settings):
        choices, value = field.metadata.get(_KEY, {}).get("choices"), getattr(settings, field.name)
        if choices and value is not None and value not in choices:
            raise ValueError(f'--{field.name} must be one of {", ".join(choices)}, not "{value}"')
