"""Stopping on SIGTERM and SIGUSR1, which schedulers send before they reclaim a machine.

During an optimizer step a signal is only recorded; the processes agree on the step after which they stop, save a
checkpoint and exit with the status `STOPPED`. At any other time (setup, validation, test) everything worth keeping is
already in a checkpoint, and the process exits immediately with the same status. scripts/slurm.sbatch requeues a job
that exits with it. Training without an output folder cannot be resumed: it exits with 128 plus the signal's number,
like any program that is killed by a signal.
"""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from engines.early_stop import SIGNALS, STOPPED, report_to_launcher
from engines.run_folder import note_stop

_logger = logging.getLogger(__name__)

_received = ""
_deferred = False
_output_dir, _training = "", True


def install_stop_handlers(output_dir: str = "", *, training: bool = True) -> None:
    """Handle `SIGNALS` as described above. Do nothing outside the main thread, where Python allows no handlers.

    Args:
        output_dir: folder of the run; empty for none.
        training: the run trains, so it loses what is not saved in that folder.
    """
    global _output_dir, _training, _received
    _output_dir, _training, _received = output_dir, training, ""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _handle)


@contextmanager
def stop_deferred() -> Iterator[None]:
    """Only record signals inside the `with` block (see `stop_requested`); exit at its end if there was one.

    Anything that must not be lost has to be saved before the block ends.
    """
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False
    if _received:
        leave()


@contextmanager
def interruption_told() -> Iterator[None]:
    """When Ctrl-C interrupts the `with` block, say in a line, not a traceback, what remains.

    The process still dies by the signal, which a loop of a shell needs to end, too.
    """
    try:
        yield
    except KeyboardInterrupt:
        kept = _training and _output_dir and any(Path(_output_dir).glob("checkpoint-*.pth"))
        resumes = "; with --auto_resume, the default, the same command resumes from the last checkpoint"
        _logger.warning("interrupted%s", resumes if kept else "")
        sys.excepthook = lambda *_: None
        raise


def stop_requested() -> bool:
    """Return whether this process has received a signal; others may not have received one yet."""
    return bool(_received)


def leave(*, agreed: bool = False) -> NoReturn:
    """Raise SystemExit, with the status `STOPPED` if the same command can continue the run.

    Args:
        agreed: all processes agreed to stop, so none has failed.
    """
    # The signal stays recorded: if this exception is swallowed, as in a destructor, training stops at the next step.
    name = _received
    kept = bool(_output_dir) or not _training
    status = STOPPED if kept else 128 + signal.Signals[name or signal.SIGTERM.name]
    _logger.warning(
        "stopped by %s: exiting with status %d; %s", name or "a signal to another process", status, _what_remains()
    )
    report_to_launcher(status, name, agreed=agreed)
    raise SystemExit(status)


def _what_remains() -> str:
    """Record the stop in the output folder and return what the same command will do."""
    if not _training:
        return "the same command repeats the test"
    if not _output_dir:
        return "nothing is kept without --output_dir: the same command starts from scratch"
    if not note_stop(_output_dir):
        return "training had not started"
    if not any(Path(_output_dir).glob("checkpoint-*.pth")):
        return "there is no checkpoint yet: the same command starts from scratch"
    return "the same command resumes from the last checkpoint"


def _handle(number: int, _) -> None:
    global _received
    _received = signal.Signals(number).name
    if not _deferred:
        leave()
