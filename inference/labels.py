"""The names of classes."""

from collections.abc import Sequence
from pathlib import Path


def label_names_of(given: str | Path | Sequence[str], num_classes: int) -> tuple[str, ...]:
    """A name for each of `num_classes` classes.

    Args:
        given: the names, or a UTF-8 file with one a line in the order of the labels; empty for "class 0", "class 1"...

    Raises:
        FileNotFoundError: the file is not there.
        ValueError: there are more or fewer names than classes.
    """
    if not given:
        return tuple(f"class {label}" for label in range(num_classes))
    if isinstance(given, (str, Path)):
        where = str(given)
        if not Path(given).is_file():
            raise FileNotFoundError(f"--label_names {given}: there is no such file; it holds a class name a line")
        given = [line.strip() for line in Path(given).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    else:
        where = "label_names"
    if len(given) != num_classes:
        raise ValueError(f"{where} has {len(given)} names, and the checkpoint has {num_classes} classes")
    return tuple(given)
