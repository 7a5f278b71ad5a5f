"""Text for a terminal: names of files and classes come from anywhere, and must not be able to command it."""

import codecs
import json
import sys
import unicodedata
from typing import TextIO


def printable(text: str, *, keep: str = "") -> str:
    r"""Write every character that is not printable as JSON does, such as \u001b for the escape character.

    Half characters, which stand for the bytes of a file name that is no UTF-8, are none either: \udcff.

    Args:
        text: of any origin; a JSON text remains one, with the same meaning.
        keep: characters that stay.
    """
    if text.isprintable():
        return text
    return "".join(sign if _is_harmless(sign) or sign in keep else json.dumps(sign)[1:-1] for sign in text)


def _is_harmless(sign: str) -> bool:
    return sign.isprintable() or unicodedata.category(sign) == "Zs"  # spaces of other widths


class PrintableStream:
    """A text stream that escapes what is not printable, but for line ends, tabs and a progress bar's way back."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write `text` escaped."""
        body = text.removeprefix("\r")  # with which a progress bar begins
        self.stream.write(text[: len(text) - len(body)] + printable(body, keep="\n\t"))
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


def _as_in_json(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding lacks; see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def escape_output() -> None:
    """Have standard output and error of this process escape what is not printable, or not in their encoding."""
    codecs.register_error("json", _as_in_json)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, PrintableStream):
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="json")
        setattr(sys, name, PrintableStream(stream))
