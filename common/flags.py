"""Command-line flags: a parser that takes `--no-x` and `--no_x` alike, and types that refuse nonsense."""

import argparse
import sys
from collections.abc import Sequence

_SPELLINGS = {"--no-": "--no_", "--no_": "--no-"}


class FlagParser(argparse.ArgumentParser):
    """An argument parser for which `--no-x` and `--no_x` are one flag, whichever of them was added."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """Parse as `argparse.ArgumentParser` does; `parse_args` and subcommands come through here too."""
        words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args([self._known_spelling(word) for word in words], namespace)

    def _known_spelling(self, word: str) -> str:
        """The spelling of a negative flag that was added; every other word as it is."""
        other = _SPELLINGS.get(word[:5], word[:5]) + word[5:]
        return other if self._is_flag(other) and not self._is_flag(word) else word

    def _is_flag(self, word: str) -> bool:
        """Whether a flag, or its abbreviation, begins `word`."""
        name = word.partition("=")[0]
        if not self.allow_abbrev:
            return name in self._option_string_actions
        return any(option.startswith(name) for option in self._option_string_actions)


def share(text: str) -> float:
    """A number from 0 to below 1, such as a dropout rate."""
    value = float(text)
    if not 0 <= value < 1:  # not-a-number is refused too
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, not {text}")
    return value


def positive_int(text: str) -> int:
    """A whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return value


def natural_int(text: str) -> int:
    """A whole number from 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return value
