"""The argument parser of all scripts: it treats dashes and underscores alike and allows no abbreviations."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from common.terminal import printable


class FlagParser(argparse.ArgumentParser):
    """An argument parser that accepts `--batch-size` for `--batch_size` and `--no_x` for `--no-x`.

    Abbreviations are rejected: `--checkpoint x` must not become `--checkpoint_num x`. The error for an unknown flag
    suggests the most similar flags.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """Parse as `argparse.ArgumentParser` does; exit with status 2 for an unknown flag."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._suggestions(unknown)}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Print one line instead of argparse's usage, which is a page long here, and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {printable(message)}\n")

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[Any, list[str]]:
        """Parse as `argparse.ArgumentParser` does; `parse_args` and subcommands also call this method."""
        words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args([self._known_spelling(word) for word in words], namespace)

    def _known_spelling(self, word: str) -> str:
        """Return a flag in the spelling it was added with, including its value; return other words unchanged."""
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name in self._option_string_actions:
            return word
        alike = (option for option in self._option_string_actions if plain(option) == plain(name))
        return next(alike, name) + equals + value

    def _suggestions(self, unknown: Sequence[str]) -> str:
        """Return a hint: the flags most similar to the unknown ones or, if there are none, --help."""
        known = {plain(option): option for option in self._option_string_actions}
        asked = [plain(word.partition("=")[0]) for word in unknown if word.startswith("--")]
        near = [known[match] for name in asked for match in difflib.get_close_matches(name, known, n=2)]
        return f"; did you mean {' or '.join(dict.fromkeys(near))}?" if near else "; --help lists all flags"


def typed_values(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """Return the flags among the words of a command line with their values, without defaults."""
    unset = object()
    blank = argparse.Namespace(**dict.fromkeys(vars(parser.parse_known_args([])[0]), unset))
    values = vars(parser.parse_known_args(words, blank)[0])
    return {name: value for name, value in values.items() if value is not unset}


def plain(option: str) -> str:
    """Return a flag with hyphens, whichever way it is written."""
    return option.replace("_", "-")
