"""Atomic writing of files: a crash never leaves half a file under its final name."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

FOLDER_WEIGHTS = "model.safetensors"  # of a folder as on the Hugging Face hub

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NAMED = 5  # checkpoints of a folder
_MARGIN = 1 << 20  # bytes for names, numbers and checksums in addition to the tensors


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb", *, old: Path | None = None) -> Iterator[IO]:
    """Open a temporary file that is renamed to `path` when the `with` block ends without an exception.

    The data and the directory entry are synced to disk, so that a power failure leaves either the old or the new file.
    An exception removes the temporary file and leaves an existing `path` unchanged.

    Args:
        path: final name; its folder is created if necessary.
        mode: "wb" or "w".
        old: new name in the same folder for an existing `path`; None replaces it.
    Raises:
        OSError: any error of the block or the system; for a full disk or quota, the message names path and remedy.
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


def weights_file(path: str | Path) -> Path:
    """Return the file of weights that a path stands for: that in a folder, or the path itself."""
    path = Path(path)
    return path / FOLDER_WEIGHTS if path.is_dir() else path


def require_weights(path: str | Path) -> Path:
    """Return the file of weights that a path stands for, or raise a FileNotFoundError."""
    if fault := weights_fault(path):
        raise FileNotFoundError(f"checkpoint {fault}")
    return weights_file(path)


def weights_fault(path: str | Path, remedy: str = "") -> str:
    """Say that a path stands for no file of weights, with the remedy; empty if it does."""
    file = weights_file(path)
    if file.is_file():
        return ""
    return run_folder_fault(path) or f"{file}: there is no such file{f'; {remedy}' if remedy else ''}"


def run_folder_fault(path: str | Path) -> str:
    """Say that a path is the folder of a run, whose checkpoints are to be named; empty if it is not."""
    found = sorted((file.name for file in Path(path).glob("checkpoint-*.pth")), reverse=True)  # latest and best first
    return f"{path} is the folder of a run; name one of its files: {', '.join(found[:_NAMED])}" if found else ""


def require_space(path: str | Path, needed: int) -> None:
    """Raise the OSError of a full disk unless `needed` bytes, and a little more, can be written to `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < needed + _MARGIN:
        raise _disk_full(path, errno.ENOSPC, needed)


def tensor_bytes(value: Any) -> int:
    """Return the bytes of all tensors in nested dicts, lists and tuples; about the size of their file."""
    import torch  # only here, so that tools that write lists start without it

    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(tensor_bytes, value.values()))
    return sum(map(tensor_bytes, value)) if isinstance(value, (list, tuple)) else 0


def unfinished_files(folder: str | Path) -> list[Path]:
    """Return the temporary files of `atomic_write` in `folder`: of killed processes, or still being written."""
    return sorted(Path(folder).glob(".*.tmp"))


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically.

    Raises:
        ValueError: it contains NaN or infinity, which JSON cannot represent.
    """
    text = json.dumps(value, indent=2, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def _full_number(error: BaseException | None) -> int | None:
    """Return the errno of a full disk or quota from the chain of `error`, because torch.save raises another error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def _disk_full(path: Path, number: int, needed: int = 0) -> OSError:
    size = f", {needed / 2**20:.0f} MiB needed" if needed else ""
    free = shutil.disk_usage(path.parent).free / 2**20
    return OSError(
        number,
        f"{os.strerror(number)}: {path} cannot be written ({free:.0f} MiB free{size}); existing files are unchanged. "
        "Free some space and repeat the command",
    )


def _sync_folder(folder: Path) -> None:
    """Sync the folder's directory entries to disk, on systems where a folder can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_once(marker: Path, settings: dict, write: Callable[[], object]) -> bool:
    """Call `write`, unless a marker says that it has finished with these settings; return whether it was called.

    An older marker is removed first, so that what an interruption leaves behind is not taken for finished.

    Args:
        marker: file that is written when `write` has returned.
        settings: everything that determines the result, as JSON can hold it.
        write: writes the result.
    """
    text = json.dumps(settings, indent=2)
    if marker.is_file() and json.loads(marker.read_text()) == json.loads(text):
        return False
    marker.unlink(missing_ok=True)
    write()
    marker.write_text(text + "\n")
    return True
