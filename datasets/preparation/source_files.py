"""Read the text, lines and JSON of annotation files; errors name the file."""

import json
from pathlib import Path
from typing import Any

from datasets.list_lines import read_text
from datasets.preparation.media_index import SourceError


def lines_of(path: Path) -> list[tuple[str, str]]:
    """Return the lines that are not blank, each with its place."""
    lines = enumerate(text_of(path).splitlines(), start=1)
    return [(f"{path}, line {i}", line.strip()) for i, line in lines if line.strip()]


def json_of(path: Path, kind: type) -> Any:
    """Return the content of a JSON file, which should be a dict or a list."""
    try:
        content = json.loads(text_of(path))
    except ValueError as error:
        raise SourceError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, kind):
        raise SourceError(f"{path} should contain a JSON {'object' if kind is dict else 'array'}")
    return content


def text_of(path: Path) -> str:
    """Return the text of a file."""
    if not path.is_file():
        raise SourceError(f"{path} does not exist; it is one of the data set's annotation files")
    try:
        return read_text(path)
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text ({error})") from error
