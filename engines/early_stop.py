"""Stop signals in the first seconds of a run script, before training or testing begins (engines/preemption.py).

There is nothing to save yet, and an exception in the middle of an import could be swallowed. This module imports only
the standard library, so that its handlers can be installed before the slow imports.
"""

import os
import signal

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again later
EXIT_FILE = "VIDEOMAMBAPRO_EXIT_FILE"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def leave_on_signals() -> None:
    """Make `SIGNALS` end this process with a message and the status `STOPPED`, until other handlers are installed."""
    for number in SIGNALS:
        signal.signal(number, _leave)


def report_to_launcher(status: int, name: str, *, agreed: bool = False) -> None:
    """Write the exit status to the file named by the environment variable `EXIT_FILE`.

    torchrun hides the exit status of its processes, so scripts/launch.sh reads it from this file. Nothing is written
    if the signal may mean that another process has failed, because launchers then send SIGTERM to the rest: a failing
    run must not be restarted again and again.

    Args:
        status: exit status of this process.
        name: name of the signal.
        agreed: all processes agreed to stop, so none has failed.
    """
    if os.environ.get(EXIT_FILE) and (agreed or name != signal.SIGTERM.name):
        with open(os.environ[EXIT_FILE], "w", encoding="utf-8") as file:
            file.write(str(status))


def _leave(number: int, _) -> None:
    name = signal.Signals(number).name
    os.write(2, f"stopped by {name} before the run began: exiting with status {STOPPED}\n".encode())
    report_to_launcher(STOPPED, name)
    os._exit(STOPPED)
