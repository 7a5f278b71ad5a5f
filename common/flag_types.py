"""Types of command-line flags: numbers with limits that are checked when flags are parsed.

Each is a value for argparse's `type=`; values from recipes and saved settings pass the same checks
(engines/configuration.py).
"""

import argparse
import math
from collections.abc import Callable


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a type for integers from `least` to `most` (None: no upper limit)."""
    limits = f"of {least} or more" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"must be a whole number {limits}, not {text}")
        return value

    return read


def real_number(
    least: float, most: float = math.inf, *, above: bool = False, below: bool = False
) -> Callable[[str], float]:
    """Return a type for finite numbers from `least` to `most`.

    Args:
        least: smallest value.
        most: largest value.
        above: exclude `least` itself.
        below: exclude `most` itself.
    """
    limits = f"above {least:g}" if above else f"of {least:g} or more"
    if most < math.inf:
        limits += f" and below {most:g}" if below else f" and at most {most:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        # NaN fails every comparison.
        inside = least <= value <= most and math.isfinite(value)
        if not inside or (above and value == least) or (below and value == most):
            raise argparse.ArgumentTypeError(f"must be a number {limits}, not {text}")
        return value

    return read


positive_int = whole_number(1)
non_negative_int = whole_number(0)
seed = whole_number(0, 2**32 - 1)  # numpy's limits

positive = real_number(0, above=True)
non_negative = real_number(0)
fraction = real_number(0, 1)
positive_fraction = real_number(0, 1, above=True)
proper_fraction = real_number(0, 1, below=True)


def frame_template(text: str) -> str:
    """Check a template of frame names with one placeholder for the number, such as img_{:05}.jpg."""
    try:
        different = text.format(1) != text.format(2)
    except (IndexError, KeyError, ValueError):
        different = False
    if not different:
        raise argparse.ArgumentTypeError(
            f"must have one placeholder for a number, such as img_{{:05}}.jpg, not {text}"
        )
    return text


AUTO = "auto"


def count_or_auto(text: str) -> int | str:
    """Check a whole number of 0 or more, or the word auto, which leaves it to the machine (engines/machine.py)."""
    return AUTO if text == AUTO else non_negative_int(text)
