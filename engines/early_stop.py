"""Stop signals in the first seconds of a run script, until training or testing begins (engines/preemption.py).

There is nothing to save yet, and imports must not be left by an exception. This module itself imports nothing beyond
the standard library, so that it comes first.
"""

import os
import signal

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again later
EXIT_FILE = "VIDEOMAMBAPRO_EXIT_FILE"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def leave_on_signals() -> None:
    """Let `SIGNALS` end this process with the status `STOPPED` and a sentence, until other handlers are set."""
    for number in SIGNALS:
        signal.signal(number, _leave)


def tell_launcher(status: int, name: str, *, agreed: bool = False) -> None:
    """Write the exit status to the file that the environment variable `EXIT_FILE` names.

    torchrun hides its processes' exit status; scripts/launch.sh reads that file. But not where the signal may mean
    that another process has failed: launchers then send SIGTERM to the rest, and a run that fails must not be started
    again and again.

    Args:
        status: this process's.
        name: of the signal.
        agreed: all processes have agreed to stop, and so none has failed.
    """
    if os.environ.get(EXIT_FILE) and (agreed or name != signal.SIGTERM.name):
        with open(os.environ[EXIT_FILE], "w", encoding="utf-8") as file:
            file.write(str(status))


def _leave(number: int, _) -> None:
    name = signal.Signals(number).name
    os.write(2, f"stopped by {name} before the run began: leaving with status {STOPPED}\n".encode())
    tell_launcher(STOPPED, name)
    os._exit(STOPPED)
