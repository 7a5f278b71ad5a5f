"""Writing files so that a crash never leaves half of one under its final name."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_FULL = (errno.ENOSPC, errno.EDQUOT)
_MARGIN = 1 << 20  # names, numbers and checksums beside the tensors


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb", *, old: Path | None = None) -> Iterator[IO]:
    """Open a temporary file beside `path` that takes its name only when the block ends without an exception.

    The data and the folder's entry are forced to the disk, so that a power cut leaves the old file or the new one.
    An exception removes the temporary file and leaves an older `path` as it was.

    Args:
        path: final name; its folder is made where it is not there.
        mode: "wb" or "w".
        old: name in the same folder that an older `path` gets; None replaces it.
    Raises:
        OSError: as the block and the system say; for a full disk or quota with the path and the remedy.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if old is not None and path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        number = _full_number(error)
        if number is None:
            raise
        raise _disk_full(path, number) from error
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def require_space(path: str | Path, needed: int) -> None:
    """Raise the OSError of a full disk unless `needed` bytes, and a little more, can be written beside `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < needed + _MARGIN:
        raise _disk_full(path, errno.ENOSPC, needed)


def tensor_bytes(value: Any) -> int:
    """Return the size of all tensors in nested dicts, lists and tuples; about that of the file that holds them."""
    import torch  # only here: tools that write lists do without, and start in a moment

    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(tensor_bytes, value.values()))
    return sum(map(tensor_bytes, value)) if isinstance(value, (list, tuple)) else 0


def unfinished_files(folder: str | Path) -> list[Path]:
    """Return the temporary files that `atomic_write` left in `folder` when its process was killed.

    Those of a process that is still writing are among them.
    """
    return sorted(Path(folder).glob(".*.tmp"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically; ValueError for NaN and infinity, which JSON has not."""
    text = json.dumps(value, indent=2, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def _full_number(error: BaseException | None) -> int | None:
    """Return the number of a full disk's or quota's OSError in the chain of `error`: torch.save raises another one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def _disk_full(path: Path, number: int, needed: int = 0) -> OSError:
    size = f", {needed / 2**20:.0f} MiB are needed" if needed else ""
    free = shutil.disk_usage(path.parent).free / 2**20
    return OSError(
        number,
        f"{os.strerror(number)}: {path} cannot be written ({free:.0f} MiB free{size}); files that were there are "
        "unharmed. Make room and start the same command again",
    )


def _sync_folder(folder: Path) -> None:
    """Force the folder's list of names to the disk, where the system lets a folder be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
