"""What becomes of flags that other code bases have: kept, replaced, ignored with the reason, or refused with it.

The table is published_flags.yaml; docs/flags.md is written from it (tools/flag_table.py). PyTorch is not imported, so
that a command line is refused at once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path

from engines.recipe import read_yaml

TABLE = Path(__file__).with_suffix(".yaml")


class Fate(Enum):
    """What happens to a flag; the values are the words of the table."""

    SAME = "same"
    REPLACED = "replaced"
    IGNORED = "ignored"
    REFUSED = "refused"


@dataclass(frozen=True)
class PublishedFlag:
    """A flag of another code base.

    Attributes:
        option: as it is typed, "--orig_t_size".
        whose: "both" (VideoMamba and VideoMAE), "videomamba", "videomae" or "other".
        values: how many it takes, 0 or 1.
        fate: what happens to it.
        remark: the reason; for a flag that is kept, how it differs.
        becomes: the flag that replaces it; empty for other fates.
        harmless: values of a refused flag that change nothing and are ignored instead.
    """

    option: str
    whose: str
    values: int
    fate: Fate
    remark: str
    becomes: str = ""
    harmless: tuple[str, ...] = ()


class RefusedFlagError(ValueError):
    """A flag that would change the result, and that this repository does not have."""


@cache
def published_flags() -> dict[str, PublishedFlag]:
    """Read the table: option with dashes alone -> flag, in the table's order."""
    flags = {}
    for name, (whose, values, fate, remark, *harmless) in read_yaml(TABLE).items():
        option = name if name.startswith("-") else f"--{name}"
        replaced = fate.startswith("-")
        flags[_plain(option)] = PublishedFlag(
            option,
            whose,
            values,
            Fate.REPLACED if replaced else Fate(fate),
            remark,
            fate if replaced else "",
            tuple(harmless[0]) if harmless else (),
        )
    return flags


def translate(words: Sequence[str], known: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """Translate a command line of another code base into this repository's flags.

    Args:
        words: Words of the command line.
        known: Flags of the script, which are left alone whatever the table says.

    Returns:
        The words, and one line for each flag that was replaced or ignored.

    Raises:
        RefusedFlagError: A flag would change the result; the message says what there is instead.
    """
    own = {_plain(option) for option in known}
    translated, notes = [], []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        flag = published_flags().get(_plain(option)) if word.startswith("-") else None
        if flag is None or flag.fate is Fate.SAME or _plain(option) in own:
            translated.append(word)
            continue
        if flag.fate is Fate.REPLACED:
            translated.append(flag.becomes + equals + value)
            notes.append(f"{option} is read as {flag.becomes}{f' ({flag.remark})' if flag.remark else ''}")
            continue
        if flag.values and not equals and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        if flag.fate is Fate.REFUSED and value not in flag.harmless:
            raise RefusedFlagError(f"{option} {flag.remark}")
        reason = "it changes nothing" if flag.fate is Fate.REFUSED else flag.remark
        notes.append(f"{f'{option} {value}'.rstrip()} is ignored: {reason}")
    return translated, notes


def _plain(option: str) -> str:
    return option.replace("_", "-")
