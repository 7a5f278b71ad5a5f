"""Escaping of text for a terminal: names of files and classes must not be able to send control characters to it."""

import codecs
import json
import sys
import unicodedata
from typing import TextIO


def printable(text: str, *, keep: str = "") -> str:
    r"""Escape unprintable characters as JSON does, for example the escape character as \u001b.

    This includes the surrogates that represent bytes of a file name that is not UTF-8, such as \udcff.

    Args:
        text: any text; JSON remains JSON with the same meaning.
        keep: characters that are not escaped.
    """
    if text.isprintable():
        return text
    return "".join(char if _is_harmless(char) or char in keep else json.dumps(char)[1:-1] for char in text)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or unicodedata.category(char) == "Zs"  # spaces of other widths


class PrintableStream:
    """A text stream that escapes unprintable characters except newlines, tabs and a progress bar's carriage return."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write `text` escaped."""
        body = text.removeprefix("\r")  # the start of a progress bar
        self.stream.write(text[: len(text) - len(body)] + printable(body, keep="\n\t"))
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


def _as_in_json(error: UnicodeError) -> tuple[str, int]:
    """Escape characters that the encoding does not have; see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def escape_output() -> None:
    """Make standard output and error escape characters that are unprintable or missing in their encoding."""
    codecs.register_error("json", _as_in_json)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, PrintableStream):
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="json")
        setattr(sys, name, PrintableStream(stream))
