"""Command lines run in forks of one process: what each program imports, for less time than new interpreters take.

The process has imported NumPy and Pillow, which most programs need at once, and no other library.
"""

import contextlib
import importlib
import io
import json
import multiprocessing
import runpy
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FORK = multiprocessing.get_context("fork")


class Outcome(NamedTuple):
    """How a command line ended: its exit status, what it wrote, and the libraries imported by then."""

    status: int
    output: str
    imported: list[str]


def outcomes(command_lines: Sequence[Sequence[str]]) -> list[Outcome]:
    """Run command lines, each a module and its words, as `python -m` does, each in a fork of a new interpreter."""
    words = [sys.executable, __file__]
    ended = subprocess.run(words, cwd=ROOT, input=json.dumps(command_lines), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return [Outcome(*values) for values in json.loads(ended.stdout)]


def _outcome(program: str, *words: str) -> Outcome:
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_run, args=(sender, program, words))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()


def _run(sender: Connection, program: str, words: Sequence[str]) -> None:
    sys.argv = [program, *words]
    written, status = io.StringIO(), 0
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
        try:
            runpy.run_module(program, run_name="__main__")
        except SystemExit as ended:
            status = ended.code or 0
    sender.send(Outcome(status, written.getvalue(), sorted({name.partition(".")[0] for name in sys.modules})))


if __name__ == "__main__":
    for library in ("numpy", "PIL.Image"):
        importlib.import_module(library)
    sys.path[0] = str(ROOT)
    json.dump([_outcome(*line) for line in json.load(sys.stdin)], sys.stdout)
