"""Dataloader workers: their setup, and the handling of batches that cannot be passed to the parent process."""

import multiprocessing.queues
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch._utils import ExceptionWrapper

from common.memory import keep_freed_memory

LONGEST_TEMPORARY_FOLDER = 107 - len("/pymp-12345678/listener-12345678")
"""Maximum length that leaves room for the socket names of multiprocessing; Linux allows 107 characters in total."""

SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def start_worker(_worker: int) -> None:
    """Set up a dataloader worker."""
    keep_freed_memory()
    outlive_stop_signals()
    keep_socket_names_short()
    queue: Any = multiprocessing.queues.Queue
    queue._on_queue_feeder_error = _hand_over_error


def outlive_stop_signals() -> None:
    """Make a dataloader worker ignore SIGUSR1, and SIGTERM unless its parent sends it.

    Launchers and schedulers signal every process of a job, but the parent needs its workers until it has saved.
    """
    if not hasattr(signal, "sigwaitinfo"):
        return
    signals = {signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.Thread(target=_end_with_parent, args=(signals,), daemon=True).start()


def _end_with_parent(signals: set[signal.Signals]) -> None:
    while True:
        received = signal.sigwaitinfo(signals)
        if received.si_signo == signal.SIGTERM and received.si_pid == os.getppid():
            os._exit(0)


def keep_socket_names_short() -> None:
    """Change this process's folder of temporary files if TMPDIR is too long for the name of a socket.

    Batches are passed to the parent through sockets in that folder.

    Raises:
        OSError: There is no other folder.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) <= LONGEST_TEMPORARY_FOLDER:
        return
    short = [other for other in SHORT_FOLDERS if os.access(other, os.W_OK | os.X_OK)]
    if not short:
        raise OSError(
            f"the dataloader workers cannot create sockets in {folder}: set TMPDIR to a folder of at most "
            f"{LONGEST_TEMPORARY_FOLDER} characters, or use --num_workers 0"
        )
    tempfile.tempdir = short[0]


def _hand_over_error(queue: multiprocessing.queues.Queue, _error: Exception, item: tuple) -> None:
    """Send an error to the parent instead of a batch that cannot be sent, so that it does not wait forever."""
    number, _batch = item
    queue.put((number, ExceptionWrapper(where="while a dataloader worker passed on a batch")))


@contextmanager
def sharing_explained() -> Iterator[None]:
    """Explain errors of a loader, inside the block, that are caused by a lack of shared memory.

    PyTorch raises various errors in that case, or a worker dies.

    Raises:
        RuntimeError: Shared memory is too small.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not any(words in str(error) for words in ("shared memory", "Bus error", "</torch_")):
            raise
        raise RuntimeError(
            "shared memory (/dev/shm) is too small for the batches of the dataloader workers: use fewer "
            "--num_workers, or 0, or a smaller --batch_size; in Docker, use --shm-size=8g or --ipc=host"
        ) from error
