"""Stopping on demand: SIGTERM and SIGUSR1, which schedulers send before they take a machine away.

While training updates run, a signal is noted; the processes agree on the update after which they stop, save, and leave
with the exit status `STOPPED`. At any other time (building, validation, testing) nothing would be lost that is not in
a checkpoint already, and the process leaves at once with the same status. scripts/slurm.sbatch puts a job that ended
with it back into the queue. A training without an output folder has nothing to go on from: it ends with 128 and the
signal's number, as programs do that a signal ends.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from engines.early_stop import SIGNALS, STOPPED, tell_launcher
from engines.run_folder import note_stop

_logger = logging.getLogger(__name__)

_received = ""
_deferred = False
_output_dir, _training = "", True


def install_stop_handlers(output_dir: str = "", *, training: bool = True) -> None:
    """Handle `SIGNALS` as this module says. Does nothing outside the main thread, where Python takes no handlers.

    Args:
        output_dir: folder of the run; empty for none.
        training: the run trains, and loses what is not in that folder.
    """
    global _output_dir, _training, _received
    _output_dir, _training, _received = output_dir, training, ""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _handle)


@contextmanager
def stop_deferred() -> Iterator[None]:
    """Inside the block a signal is only noted, for `stop_requested`; at its end a noted one makes the process leave.

    What must not be lost has to be saved before the block ends.
    """
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    if _received:
        leave()


def stop_requested() -> bool:
    """Whether this process has received a signal; others may not have yet."""
    return bool(_received)


def leave(*, agreed: bool = False) -> NoReturn:
    """End this process by SystemExit, with the status `STOPPED` where the same command goes on.

    Args:
        agreed: all processes have agreed to stop, and so none has failed.
    """
    # It stays noted: where this exception is swallowed, as in a destructor, training stops at its next update.
    name = _received
    kept = bool(_output_dir) or not _training
    status = STOPPED if kept else 128 + signal.Signals[name or signal.SIGTERM.name]
    _logger.warning(
        "stopped by %s: leaving with status %d; %s", name or "another process's signal", status, _what_remains()
    )
    tell_launcher(status, name, agreed=agreed)
    raise SystemExit(status)


def _what_remains() -> str:
    """Note the stop in the output folder and say what the same command does next."""
    if not _training:
        return "the same command tests again"
    if not _output_dir:
        return "nothing is kept, since there is no --output_dir: the same command begins anew"
    if not note_stop(_output_dir):
        return "the training had not begun"
    if not any(Path(_output_dir).glob("checkpoint-*.pth")):
        return "there is no checkpoint yet: the same command begins anew"
    return "the same command goes on from the last checkpoint"


def _handle(number: int, _) -> None:
    global _received
    _received = signal.Signals(number).name
    if not _deferred:
        leave()
