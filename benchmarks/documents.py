"""Markdown that benchmarks write: whole documents, and tables between the markers of a document."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.files import atomic_write


def write_and_print(path: Path, text: str) -> None:
    """Write a document atomically and print it."""
    with atomic_write(path, "w") as file:
        file.write(text)
    print(text)


def markers_of(name: str) -> tuple[str, str]:
    """Return the lines before and after a text that `replace_between` replaces."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def replace_between(path: Path, name: str, text: str) -> None:
    """Replace the text between the markers `name` of a document.

    Raises:
        ValueError: A marker is missing or stands there twice, or the end comes first.
    """
    begin, end = markers_of(name)
    content = path.read_text(encoding="utf-8")
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(end) < content.index(begin):
        raise ValueError(f"{path}: must contain the lines {begin!r} and {end!r} once each, in this order")
    head, rest = content.split(begin)
    with atomic_write(path, "w") as file:
        file.write(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines)


def mean_and_spread(values: Sequence[float]) -> str:
    """Format the mean, and the standard deviation if there are several values."""
    spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def over_seeds(values: Sequence[float]) -> tuple[str, str]:
    """Format two cells of a table: mean and spread, and the value of each seed; empty if there are none."""
    return (mean_and_spread(values), ", ".join(f"{value:.1f}" for value in values)) if values else ("", "")
