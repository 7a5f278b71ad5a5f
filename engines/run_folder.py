"""The output folder of a run: only one process writes to it at a time, and its files belong to one run.

`run.lock` names the process that uses the folder and holds a POSIX record lock. The system releases it whenever the
process ends, so a lock is never stale. It works on NFS, where the server releases the locks of a machine that has
disappeared after its lease, about 90 s; and forked dataloader workers do not inherit it.

`run.json` records what the run was started from, its command, and whether a signal stopped it. A run that starts in a
used folder first moves the files of the earlier run away, so that they cannot be mistaken for its own.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from common.files import write_json
from engines.distributed import Context, broadcast_object

_logger = logging.getLogger(__name__)

LOCK = "run.lock"
RECORD = "run.json"
# Files that belong to a single run (docs/engine.md).
_RUN_FILES = (
    "checkpoint-*.pth*",
    "log.txt",
    "nonfinite-*.json",
    "results.json",
    "scores.npz",
    "detections.csv",
    "report.html",
    "training_curve.png",
    "confusion_matrix.png",
    "events.out.tfevents.*",
    "tracker.json",
)
_LOCAL_PATIENCE = 10  # seconds to wait for a process on this machine to end

# (process, lock file) -> descriptor. A forked child inherits its parent's entries but not its locks.
_held: dict[tuple[int, Path], int] = {}
# Folders in which this process has started a run.
_started: set[tuple[int, Path]] = set()


def claim(output_dir: str, context: Context, *, patience: float = 120) -> None:
    """Lock `output_dir` until this process ends. Every rank must call it; rank 0 holds the lock.

    Args:
        output_dir: folder, created if necessary; nothing is locked if empty.
        context: this process.
        patience: maximum number of seconds to wait for a holder that is ending or whose machine has disappeared.
    Raises:
        SystemExit: another process uses the folder (the message names host and process), or it is not writable.
    """
    if not output_dir:
        return
    refusal = broadcast_object(_lock(Path(output_dir), patience) if context.is_main else "")
    if refusal:
        raise SystemExit(refusal if context.is_main else 1)


def read_record(output_dir: str) -> dict[str, Any]:
    """Return the content of run.json in `output_dir`; empty if it does not exist or cannot be read."""
    try:
        record = json.loads((Path(output_dir) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def stopped_here(record: dict[str, Any]) -> bool:
    """Return whether this command was stopped by a signal in the folder of `record`, so that it should resume."""
    return bool(record.get("stopped")) and record.get("command") == sys.argv


def note_start(output_dir: str, *, origin: str) -> None:
    """Write run.json when a run starts or resumes; `origin` is the checkpoint it was started from, or empty."""
    write_json(Path(output_dir) / RECORD, {"origin": origin, "command": sys.argv, "stopped": False})
    _started.add((os.getpid(), _lock_path(Path(output_dir))))


def note_stop(output_dir: str) -> bool:
    """Record in run.json that a signal stopped the run; return False if this process has not started a run there."""
    if (os.getpid(), _lock_path(Path(output_dir))) not in _started:
        return False
    try:
        write_json(Path(output_dir) / RECORD, read_record(output_dir) | {"stopped": True})
    except OSError as error:
        _logger.warning("%s; --no_auto_resume will start from scratch", error)
    return True


def files_of_earlier_run(output_dir: str) -> list[Path]:
    """Return the files in `output_dir` that belong to a single run."""
    return [path for pattern in _RUN_FILES for path in sorted(Path(output_dir).glob(pattern))]


def set_aside(paths: list[Path], output_dir: str) -> None:
    """Move files of an earlier run to a new folder earlier-N in `output_dir`, with a warning."""
    if not paths:
        return
    number = 1
    while (folder := Path(output_dir) / f"earlier-{number}").exists():
        number += 1
    folder.mkdir()
    for path in paths:
        os.replace(path, folder / path.name)
    _logger.warning(
        "a new run starts in %s: %s of an earlier run were moved to %s",
        output_dir,
        ", ".join(path.name for path in paths),
        folder,
    )


def _lock_path(folder: Path) -> Path:
    return folder.resolve() / LOCK


def _lock(folder: Path, patience: float) -> str:
    """Acquire the lock; return an empty string, or an error message that names the holder."""
    path = _lock_path(folder)
    if _is_held(path):
        return ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        return f"--output_dir {folder} cannot be written: {error}"
    start, warned = time.monotonic(), False
    while not _try_lock(descriptor, folder):
        holder = _read_holder(descriptor)
        name = f"process {holder.get('process', '?')} on {holder.get('host', 'an unknown host')}"
        limit = min(patience, _LOCAL_PATIENCE) if holder.get("host") == socket.gethostname() else patience
        if time.monotonic() - start >= limit:
            os.close(descriptor)
            return (
                f"{folder} is in use by {name}: two runs would mix their files. Choose another --output_dir, or "
                f"wait for that run to end; if its machine no longer exists, delete {path}"
            )
        if not warned:
            _logger.warning("%s is in use by %s: waiting up to %.0f s for it to end", folder, name, limit)
            warned = True
        time.sleep(0.2)
    _held[os.getpid(), path] = descriptor
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode(), 0)
    return ""


def _try_lock(descriptor: int, folder: Path) -> bool:
    """Try to lock without waiting; True also if the file system of `folder` does not support locks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        _logger.warning("%s cannot be locked (%s): make sure that no other run writes there", folder, error)
    return True


def _is_held(path: Path) -> bool:
    """Return whether this process has locked the file now at `path`; the folder may have been deleted meanwhile."""
    descriptor = _held.get((os.getpid(), path))
    if descriptor is None:
        return False
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _read_holder(descriptor: int) -> dict[str, Any]:
    try:
        return json.loads(os.pread(descriptor, 65536, 0))
    except ValueError:  # being written
        return {}
