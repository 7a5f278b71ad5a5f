"""The output folder of a run: one process writes to it at a time, and its files are of one run.

`run.lock` names who has the folder and is locked with a POSIX record lock. The system gives that up when the process
ends, however it ends, so that nobody has to guess whether a lock is stale; NFS knows it (a server frees those of a
machine that is gone after its lease, about 90 s), and forked loader workers do not inherit it.

`run.json` says what the run in the folder began from, by which command, and whether a signal stopped it. A run that
begins in a used folder sets the earlier run's files aside: so they are never taken for its own.
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
# What one run writes there (docs/engine.md) and another must not find.
_OF_ONE_RUN = (
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
)
# Seconds that a process of this machine gets to end, and one of another machine to be given up by the file server.
_PATIENCE_HERE, _PATIENCE_ELSEWHERE = 10, 120

# (process, lock file) -> descriptor. A forked child has its parent's entries and none of its locks.
_held: dict[tuple[int, Path], int] = {}
# Folders in which a run of this process has begun.
_begun: set[tuple[int, Path]] = set()


def claim(output_dir: str, context: Context, *, patience: float = _PATIENCE_ELSEWHERE) -> None:
    """Lock `output_dir` for this run until its process ends. Every rank must call it; rank 0 holds the lock.

    Args:
        output_dir: folder, made where it is not there; nothing is locked when empty.
        context: this process.
        patience: most seconds to wait for a holder that is just ending or whose machine is gone.
    Raises:
        SystemExit: another process has it, and the message names host and process; or it cannot be written.
    """
    if not output_dir:
        return
    refusal = broadcast_object(_lock(Path(output_dir), patience) if context.is_main else "")
    if refusal:
        raise SystemExit(refusal if context.is_main else 1)


def read_record(output_dir: str) -> dict[str, Any]:
    """Return run.json of `output_dir`; empty where there is none or it cannot be read."""
    try:
        record = json.loads((Path(output_dir) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def stopped_here(record: dict[str, Any]) -> bool:
    """Whether this very command was stopped by a signal in the folder of `record`, and so was told to go on."""
    return bool(record.get("stopped")) and record.get("command") == sys.argv


def note_start(output_dir: str, *, origin: str) -> None:
    """Write run.json: a run has begun from `origin` (a file, or "" for the beginning), or goes on."""
    write_json(Path(output_dir) / RECORD, {"origin": origin, "command": sys.argv, "stopped": False})
    _begun.add((os.getpid(), _lock_path(Path(output_dir))))


def note_stop(output_dir: str) -> bool:
    """Write to run.json that a signal has stopped the run; False where no run of this process has begun there."""
    if (os.getpid(), _lock_path(Path(output_dir))) not in _begun:
        return False
    try:
        write_json(Path(output_dir) / RECORD, read_record(output_dir) | {"stopped": True})
    except OSError as error:
        _logger.warning("%s; --no_auto_resume will begin afresh", error)
    return True


def files_of_earlier_run(output_dir: str) -> list[Path]:
    """Return the files in `output_dir` that belong to one run alone."""
    return [path for pattern in _OF_ONE_RUN for path in sorted(Path(output_dir).glob(pattern))]


def set_aside(paths: list[Path], output_dir: str) -> None:
    """Move files of an earlier run to a new folder earlier-N in `output_dir`, and say so."""
    if not paths:
        return
    number = 1
    while (folder := Path(output_dir) / f"earlier-{number}").exists():
        number += 1
    folder.mkdir()
    for path in paths:
        os.replace(path, folder / path.name)
    _logger.warning(
        "a new run begins in %s: %s of an earlier one are in %s now",
        output_dir,
        ", ".join(path.name for path in paths),
        folder,
    )


def _lock_path(folder: Path) -> Path:
    return folder.resolve() / LOCK


def _lock(folder: Path, patience: float) -> str:
    """Take the lock; return "" or the sentence that says who has it."""
    path = _lock_path(folder)
    if _is_held(path):
        return ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        return f"--output_dir {folder} cannot be written: {error}"
    began, told = time.monotonic(), False
    while not _try_lock(descriptor, folder):
        holder = _read_holder(descriptor)
        name = f"process {holder.get('process', '?')} on {holder.get('host', 'a host that is not known yet')}"
        limit = min(patience, _PATIENCE_HERE) if holder.get("host") == socket.gethostname() else patience
        if time.monotonic() - began >= limit:
            os.close(descriptor)
            return (
                f"{folder} is in use by {name}: two runs would mix their files. Give another --output_dir, or wait "
                f"for that run to end; if its machine is gone, delete {path}"
            )
        if not told:
            _logger.warning("%s is in use by %s: waiting up to %.0f s for it to end", folder, name, limit)
            told = True
        time.sleep(0.2)
    _held[os.getpid(), path] = descriptor
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode(), 0)
    return ""


def _try_lock(descriptor: int, folder: Path) -> bool:
    """Lock at once or not at all; true also where the file system of `folder` has no locks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        _logger.warning("%s cannot be locked (%s): see to it that no other run writes there", folder, error)
    return True


def _is_held(path: Path) -> bool:
    """Whether this process has locked the file that is at `path` now: the folder may have been deleted meanwhile."""
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
