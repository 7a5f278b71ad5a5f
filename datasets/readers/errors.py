"""The one exception of all readers."""


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


def one_line(error: Exception) -> str:
    """Shorten a decoder's message, often a stack trace, to its last line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[-160:] if lines else type(error).__name__
