"""Settings of a component as a dataclass, from which its command-line flags derive.

@dataclass(frozen=True)
class Schedule:
    epochs: int = option(50, "epochs in all", positive_int)
    warmup_epochs: float = option(5.0, "epochs of linear warm-up", non_negative)

add_options(parser.add_argument_group("schedule"), Schedule)
schedule = from_flags(Schedule, parser.parse_args())
"""

import argparse
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
) -> Any:
    """Declare a field of a settings dataclass together with its flag.

    Args:
        default: of the field and the flag. True and False make a pair of flags, `--x` and `--no-x`; a tuple makes a
            flag that takes as many values.
        help: what it does, with units; the default is added unless the text tells it.
        type: reads a value off the command line and refuses nonsense (common/flag_types.py); the default's own
            type where it is left out.
        choices: the values that there are; empty for any.
        names: further names of the flag, without dashes.
        nargs: how many values, as argparse counts them; by default one, or as many as a tuple has.
        metavar: name of the value in the help.
    """
    return dataclasses.field(
        default=default,
        metadata={_KEY: dict(help=help, type=type, choices=choices, names=names, nargs=nargs, metavar=metavar)},
    )


def flag(default: bool | None, help: str) -> Any:
    """Declare a switch, `--x` and `--no-x`; None leaves the choice to the component."""
    return dataclasses.field(default=default, metadata={_KEY: {"help": help, "switch": True}})


def add_options(group, kind: type) -> None:
    """Add the flag of every field of a settings dataclass that was declared by `option` or `flag`.

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
            help=text,
        )


def from_flags(kind: type[Kind], flags: argparse.Namespace, /, **values: Any) -> Kind:
    """Build a settings dataclass from parsed flags.

    Args:
        kind: the dataclass; its fields have the flags' names.
        flags: what the parser returned.
        values: fields that win over the flags, or have none.
    """
    taken = {
        field.name: getattr(flags, field.name)
        for field in dataclasses.fields(cast(Any, kind))
        if field.name not in values
    }
    return kind(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in taken.items()}, **values
    )


def check_choices(settings: Any) -> None:
    """Refuse values that are none of a field's choices: a parser does so, but in Python settings are made without one.

    Raises:
        ValueError: names the field and its choices.
    """
    for field in dataclasses.fields(settings):
        choices, value = field.metadata.get(_KEY, {}).get("choices"), getattr(settings, field.name)
        if choices and value is not None and value not in choices:
            raise ValueError(f'--{field.name} is one of {", ".join(choices)}, not "{value}"')
