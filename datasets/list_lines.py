"""Split the lines of a list file into columns, as written by people, pandas and spreadsheets."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice

SEPARATORS = {"space": " ", "tab": "\t", "comma": ",", "semicolon": ";"}
INTEGER = re.compile(r"[+-]?\d+(\.0*)?")
"""An integer, possibly written `3.0`, as pandas does if a row of the column is empty."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
JOINT = ";"
"""Between the values of a label, see datasets/labels.py."""
INTEGERS, NUMBERS = (re.compile(f"{one.pattern}({JOINT}{one.pattern})*") for one in (INTEGER, NUMBER))
RECOGNISED_FROM = 1000
MAX_DIGITS = 9
SPLIT_AT_ONCE = 1 << 20  # characters; a list of all lines would take more memory than the records


class LineError(ValueError):
    """What is wrong with one line of a list, without its line number."""


def named_separator(split: str) -> str:
    r"""Return the separator that --split sets: a character, "space", "tab", "comma", "semicolon" or \t."""
    separator = {**SEPARATORS, r"\t": "\t"}.get(split, split)
    if len(separator) != 1:
        raise ValueError(f'--split must be one character or one of {", ".join(SEPARATORS)}, not "{split}"')
    return separator


def separator_words(separator: str) -> str:
    """Describe a separator in a sentence."""
    names = {character: f"a {name}" for name, character in SEPARATORS.items()}
    return names.get(separator, f'"{separator}"')


def recognise_separator(lines: Sequence[str], form: re.Pattern = INTEGER) -> str:
    """Choose the separator after which most lines end in a label of a form; paths may contain the others.

    A space ranks last: if lines end in a label after another separator, spaces are part of the path. Where a semicolon
    may be part of a label, it separates columns only if nothing else does.
    """
    some = evenly_spread(lines, RECOGNISED_FROM)
    scores = {separator: sum(_ends_in(form, line, separator) for line in some) for separator in "\t,; "}
    if form is not INTEGER and any(score for separator, score in scores.items() if separator != JOINT):
        del scores[JOINT]
    found = max(scores, key=lambda separator: scores[separator]) if any(scores.values()) else " "
    if form is INTEGER and found == JOINT:
        # Where all lines end in `3;17` after another separator, clips have several labels: `path 3` is no path.
        other = recognise_separator(lines, NUMBERS)
        return other if all(_ends_in(NUMBERS, line, other) for line in some) else found
    return found


def evenly_spread(items: Sequence, count: int) -> Sequence:
    """Take at most `count` evenly spaced items of a sequence, in order."""
    step = -(-len(items) // count) or 1
    return items[::step]


def split_columns(line: str, separator: str) -> list[str]:
    """Split a line into columns, removing quotes and spaces around columns and empty columns at the end.

    If the separator is a space, several spaces between columns count as one; in an unquoted path they are kept.
    """
    columns = split_with_spaces(line, separator)
    return columns if separator == " " else stripped(columns)


def split_with_spaces(line: str, separator: str) -> list[str]:
    """Split a line as `split_columns` does, but keep the spaces around columns: a path may be several of them."""
    columns = _split_at_spaces(line) if separator == " " else _split_csv(line, separator)
    while len(columns) > 1 and not columns[-1].strip():
        del columns[-1]
    return columns


def join_path(columns: Sequence[str], separator: str) -> str:
    """Join columns of `split_with_spaces` to the path that they are."""
    path = separator.join(columns)
    return path if separator == " " else path.strip()


def stripped(columns: Sequence[str]) -> list[str]:
    """Remove the spaces around columns."""
    return [column.strip() for column in columns]


def quote(path: str) -> str:
    """Write a path so that `split_columns` reads it as one column."""
    return '"' + path.replace('"', '""') + '"' if re.search(r'[\s",;]', path) else path


def read_text(path: str | os.PathLike) -> str:
    """Read a UTF-8 text file, removing the byte order mark that spreadsheets write."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        return file.read()


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, each with its 1-based number."""
    before = start = 0
    while start < len(text):
        stop = text.find("\n", start + SPLIT_AT_ONCE) + 1 or len(text)
        lines = text[start:stop].splitlines()
        for number, line in enumerate(map(str.strip, lines), start=before + 1):
            if line:
                yield number, line
        before, start = before + len(lines), stop


def some_lines(text: str) -> list[str]:
    """Return the first line and others, evenly spread, from which the form of a list is recognised."""
    step = -(-sum(1 for _ in numbered_lines(text)) // RECOGNISED_FROM) or 1
    return [line for _, line in islice(numbered_lines(text), 0, None, step)]


def _ends_in(form: re.Pattern, line: str, separator: str) -> bool:
    line = line.rstrip(separator + " ")
    return separator in line and bool(form.fullmatch(line.rpartition(separator)[2].strip().strip('"')))


def _split_csv(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator))
    except csv.Error:  # a column of more than 128 KiB
        return line.split(separator)


def _split_at_spaces(line: str) -> list[str]:
    quoted = re.match(r'"((?:[^"]|"")*)"(?:\s|$)', line)
    if quoted:
        return [quoted[1].replace('""', '"'), *(column.strip('"') for column in line[quoted.end() :].split())]
    columns = line.split(" ")
    # Extra spaces between the numbers are dropped; those before them belong to the path.
    while "" in columns and NUMBERS.fullmatch(columns[-1]) and columns[-2] == "":
        del columns[-2]
    return columns
