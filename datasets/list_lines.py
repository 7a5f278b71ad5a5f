"""The lines of a list file cut into columns, as people, pandas and spreadsheets write them."""

import csv
import os
import re
from collections.abc import Sequence

SEPARATORS = {"space": " ", "tab": "\t", "comma": ",", "semicolon": ";"}
INTEGER = re.compile(r"[+-]?\d+(\.0*)?")
"""A whole number, also as `3.0`, which pandas writes for whole numbers where a row of the column is empty."""
RECOGNISED_FROM = 1000


def named_separator(split: str) -> str:
    r"""Give the character that --split names: itself, the word "space", "tab", "comma" or "semicolon", or \t."""
    separator = {**SEPARATORS, r"\t": "\t"}.get(split, split)
    if len(separator) != 1:
        raise ValueError(f'--split is one character, or one of {", ".join(SEPARATORS)}; not "{split}"')
    return separator


def separator_words(separator: str) -> str:
    """Name a separator in a sentence."""
    names = {character: f"a {name}" for name, character in SEPARATORS.items()}
    return names.get(separator, f'"{separator}"')


def recognise_separator(lines: Sequence[str]) -> str:
    """Take the separator behind which the most lines end in a number; a path may hold the others.

    A space goes last: where a line ends in a number behind another separator, a space is part of its path.
    """
    some = evenly_spread(lines, RECOGNISED_FROM)
    scores = {separator: sum(_ends_in_number(line, separator) for line in some) for separator in "\t,; "}
    return max(scores, key=lambda separator: scores[separator]) if any(scores.values()) else " "


def evenly_spread(items: Sequence, count: int) -> Sequence:
    """Take at most `count` items from all over a sequence, in their order."""
    step = -(-len(items) // count) or 1
    return items[::step]


def split_columns(line: str, separator: str) -> list[str]:
    """Cut a line into columns, without quotes around them and without empty ones at its end.

    Between columns that spaces separate several spaces count as one; in an unquoted path they are kept.
    """
    columns = (
        _split_at_spaces(line) if separator == " " else [column.strip() for column in _split_csv(line, separator)]
    )
    while len(columns) > 1 and not columns[-1]:
        del columns[-1]
    return columns


def quote(path: str) -> str:
    """Write a path so that `split_columns` reads it as one column."""
    return '"' + path.replace('"', '""') + '"' if re.search(r'[\s",;]', path) else path


def read_text(path: str | os.PathLike) -> str:
    """Read a text file, without the byte order mark that spreadsheets write and that would become part of a path."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        return file.read()


def _ends_in_number(line: str, separator: str) -> bool:
    line = line.rstrip(separator + " ")
    return separator in line and bool(INTEGER.fullmatch(line.rpartition(separator)[2].strip().strip('"')))


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
    # empty pieces of the numbers' side are extra spaces; on the path's side they belong to the path
    while "" in columns and INTEGER.fullmatch(columns[-1]) and columns[-2] == "":
        del columns[-2]
    return columns
