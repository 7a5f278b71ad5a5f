"""New processes without minutes of imports: they are forked from a server that has imported PyTorch once."""

import multiprocessing
import os
import runpy
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent


# What programs and runs use; the last two bring the rest of the repository along.
PRELOADED = ["torch", "torchvision", "timm", "sklearn.datasets", "matplotlib.figure", "torch.utils.tensorboard"]
PRELOADED += ["av", "numba", "engines.run", "datasets.build"]


def ready_server():
    """Choose what the server imports when the first process starts it; it does nothing else and serves all tests."""
    multiprocessing.set_forkserver_preload(PRELOADED)


def run_script(script, *words, folder):
    """Run a script of the repository, with one thread, as a program of its own.

    Args:
        script: its file, from the root of the repository.
        words: its command line.
        folder: where its standard error is written to `stderr.txt`.

    Returns:
        its exit status and what it wrote to standard error.
    """
    return run_function(run_path, script, words, folder=folder)


def run_function(function, *arguments, folder):
    """Call a function of a module in a process of its own, with one thread, as `run_script` runs a script.

    No test has computed anything in it, so it may fork: autograd's threads, once started, forbid that.
    """
    ready_server()
    log = folder / "stderr.txt"
    process = multiprocessing.get_context("forkserver").Process(
        target=_call, args=(function, arguments, log, dict(os.environ))
    )
    process.start()
    process.join()
    return process.exitcode, log.read_text()


def prepare_process(environment):
    """Give a process that the server has forked what one that was started alone would have, and one thread."""
    os.environ.clear()  # variables of the test that started the server do not apply
    os.environ.update(environment)
    multiprocessing.set_start_method(None, force=True)  # of its own workers: the platform's, not the server's
    torch.set_num_threads(1)


def _call(function, arguments, log, environment):
    prepare_process(environment)
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    function(*arguments)


def run_path(script, words):
    """Run a script in this process, with the command line that it would see."""
    sys.argv = [script, *map(str, words)]
    runpy.run_path(str(ROOT / script), run_name="__main__")
