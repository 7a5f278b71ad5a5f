"""The processes of a loader: what they do before they read, and what to do where they cannot hand over batches."""

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
"""Letters that leave room for the names of sockets, which multiprocessing makes in it: Linux takes 107 in all."""

SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


def start_worker(_worker: int) -> None:
    """Prepare a process of a loader."""
    keep_freed_memory()
    outlive_stop_signals()
    keep_socket_names_short()
    queue: Any = multiprocessing.queues.Queue
    queue._on_queue_feeder_error = _hand_over_error


def outlive_stop_signals() -> None:
    """Let a loader's worker end with its parent only: SIGUSR1, and SIGTERM from anyone else, do nothing to it.

    Launchers and schedulers signal every process of a job, and the parent needs its workers until it has saved.
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
    """Have this process make its temporary files elsewhere where TMPDIR is too long for the name of a socket.

    Batches go to the parent through sockets with a name in that folder.

    Raises:
        OSError: there is no other folder.
    """
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) <= LONGEST_TEMPORARY_FOLDER:
        return
    short = [other for other in SHORT_FOLDERS if os.access(other, os.W_OK | os.X_OK)]
    if not short:
        raise OSError(
            f"the loader's processes cannot make sockets in {folder}: set TMPDIR to a folder of at most "
            f"{LONGEST_TEMPORARY_FOLDER} letters, or take --num_workers 0"
        )
    tempfile.tempdir = short[0]


def _hand_over_error(queue: multiprocessing.queues.Queue, _error: Exception, item: tuple) -> None:
    """Send an error to the parent in the place of a batch that cannot be sent: it would wait for that for ever."""
    number, _batch = item
    queue.put((number, ExceptionWrapper(where="while a batch was handed over by a loader's process")))


@contextmanager
def sharing_explained() -> Iterator[None]:
    """Say what to do when a loader's iteration, inside the block, fails for want of shared memory.

    PyTorch tells it in several ways, or a worker dies of it.

    Raises:
        RuntimeError: that is so.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not any(words in str(error) for words in ("shared memory", "Bus error", "</torch_")):
            raise
        raise RuntimeError(
            "the memory that the loader's processes share, /dev/shm, is too small for their batches: take fewer "
            "--num_workers, or 0, or a smaller --batch_size; in docker, --shm-size=8g or --ipc=host"
        ) from error
