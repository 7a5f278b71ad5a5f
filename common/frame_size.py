"""Height and width of frames: a whole number for squares, or a pair, as in `--input_size 128 224`.

Flags, recipes and checkpoints hold the number or a list [height, width]; equal sides are always the number.
"""

import argparse
from collections.abc import Sequence
from typing import Any

FrameSize = int | Sequence[int]


def as_pair(size: FrameSize) -> tuple[int, int]:
    """Return height and width."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def shorter(size: FrameSize) -> int:
    """Return the shorter side."""
    return min(as_pair(size))


def as_flag(sides: Sequence[int]) -> int | list[int]:
    """Return one or two sides as the value of a flag.

    Raises:
        ValueError: There are more than two.
    """
    if len(sides) not in (1, 2):
        raise ValueError(f"{' '.join(map(str, sides))}: give height and width, or one number for squares")
    return sides[0] if len(set(sides)) == 1 else list(sides)


class StoreSize(argparse.Action):
    """Store the one or two numbers of a flag; needs `nargs="+"`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the number, or the list of height and width."""
        try:
            setattr(namespace, self.dest, as_flag(values))
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from error
