"""The one exception of all readers."""

from collections.abc import Iterator
from contextlib import contextmanager


class UnreadableVideoError(RuntimeError):
    """A video, frame folder or image that cannot be read: `path` and `reason`."""

    def __init__(self, path: str, reason: str):
        """Remember which file and why."""
        super().__init__(f"cannot read {path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self):
        """Pickle by both arguments: loader workers hand the exception to another process."""
        return type(self), (self.path, self.reason)


@contextmanager
def failures_of(path: str) -> Iterator[None]:
    """Make every exception inside the block an `UnreadableVideoError` for `path`, with its type and text.

    A damaged file can make a decoder raise anything: what exactly is no reason to end a run.
    """
    try:
        yield
    except UnreadableVideoError:
        raise
    except Exception as error:
        raise UnreadableVideoError(path, type_and_text(error)) from error


def type_and_text(error: Exception) -> str:
    """Give "type: text" of an exception in one line, or the type alone where it says nothing."""
    text = one_line(error)
    name = type(error).__name__
    return name if text == name else f"{name}: {text}"


def one_line(error: Exception) -> str:
    """Shorten a decoder's message, often a stack trace, to its last line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[-160:] if lines else type(error).__name__
