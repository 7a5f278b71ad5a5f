"""The exception raised by all readers."""

from collections.abc import Iterator
from contextlib import contextmanager


class UnreadableVideoError(RuntimeError):
    """A video, frame folder or image cannot be read; attributes `path` and `reason`."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"cannot read {path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self):
        # Pickled with both arguments, because dataloader workers pass the exception to another process.
        return type(self), (self.path, self.reason)


@contextmanager
def failures_of(path: str) -> Iterator[None]:
    """Turn any exception inside the block into an `UnreadableVideoError` for `path`, with its type and text.

    Damaged files can make a decoder raise anything, which must not end a run.
    """
    try:
        yield
    except UnreadableVideoError:
        raise
    except Exception as error:
        raise UnreadableVideoError(path, type_and_text(error)) from error


def type_and_text(error: Exception) -> str:
    """Return "type: text" of an exception in one line, or only the type if it has no text."""
    text = one_line(error)
    name = type(error).__name__
    return name if text == name else f"{name}: {text}"


def one_line(error: Exception) -> str:
    """Shorten a decoder's message, often a stack trace, to its last line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[-160:] if lines else type(error).__name__
