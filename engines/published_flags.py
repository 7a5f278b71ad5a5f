"""How the flags of other code bases are handled: kept, replaced, or ignored or refused with a reason.

The table is published_flags.yaml; tools/flag_table.py writes docs/flags.md from it. PyTorch is not imported, so that a
command line is refused at once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

from common.flag_parser import plain
from engines.recipe import read_yaml

TABLE = Path(__file__).with_suffix(".yaml")
TABLES_OF_SCRIPTS = {"run_pretrain_masked.py": TABLE.with_name("published_masked_flags.yaml")}
"""Tables of scripts whose published counterpart has further flags."""


class Handling(Enum):
    """How a flag is handled; the values are the words in the table."""

    SAME = "same"
    REPLACED = "replaced"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True)
class PublishedFlag:
    """A flag of another code base.

    Attributes:
        option: The flag as typed, such as "--orig_t_size".
        origin: "both" (VideoMamba and VideoMAE), "videomamba", "videomae" or "other".
        values: Number of values, 0 or 1.
        handling: How it is handled.
        remark: The reason, or how a flag that is kept differs.
        replacement: The flag that replaces it; empty unless it is replaced.
        harmless: Values of a refused flag that change nothing and are therefore ignored.
    """

    option: str
    origin: str
    values: int
    handling: Handling
    remark: str
    replacement: str = ""
    harmless: tuple[str, ...] = ()


class RefusedFlagError(ValueError):
    """A flag that would change the result and has no equivalent in this repository."""


@cache
def published_flags(script: str = "") -> dict[str, PublishedFlag]:
    """Read the table: option, written with dashes only -> flag, in the order of the file.

    Args:
        script: Run script whose own table follows and overrides the common one; empty for the common one alone.
    """
    flags, table = {}, read_yaml(TABLE)
    if script in TABLES_OF_SCRIPTS:
        table |= read_yaml(TABLES_OF_SCRIPTS[script])
    for name, (origin, values, handling, remark, *harmless) in table.items():
        option = name if name.startswith("-") else f"--{name}"
        replaced = handling.startswith("-")
        flags[plain(option)] = PublishedFlag(
            option,
            origin,
            values,
            Handling.REPLACED if replaced else Handling(handling),
            remark,
            handling if replaced else "",
            tuple(harmless[0]) if harmless else (),
        )
    return flags


def translate(words: Sequence[str], known: Collection[str] = (), script: str = "") -> tuple[list[str], list[str]]:
    """Translate a command line of another code base into this repository's flags.

    Args:
        words: Words of the command line.
        known: Flags of the script, which are never translated.
        script: File name of the run script.

    Returns:
        The words, and one line for each flag that was replaced or ignored.

    Raises:
        RefusedFlagError: A flag would change the result; the message names the alternative.
    """
    own = {plain(option) for option in known}
    translated, notes = [], []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        flag = published_flags(script).get(plain(option)) if word.startswith("-") else None
        if flag is None or flag.handling is Handling.SAME or plain(option) in own:
            translated.append(word)
            continue
        if flag.handling is Handling.REPLACED:
            translated.append(flag.replacement + equals + value)
            notes.append(f"{option} is read as {flag.replacement}{f' ({flag.remark})' if flag.remark else ''}")
            continue
        if flag.values and not equals and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        if flag.handling is Handling.REFUSED and value not in flag.harmless:
            raise RefusedFlagError(f"{option} {flag.remark}")
        reason = "it changes nothing" if flag.handling is Handling.REFUSED else flag.remark
        notes.append(f"{f'{option} {value}'.rstrip()} is ignored: {reason}")
    return translated, notes
