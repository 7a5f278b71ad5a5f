"""Run the demo and show how far the whole of it is: `make demo`, or `python -m tools.demo [--output DIR] [--seed N]`.

It sets up the environment and creates the data, at the same time as far as possible (`make setup demo-data`), runs
`scripts/demo.sh`, and ends with the result and what to try next. On a terminal, the last line shows the stage and the
time left, below the log; elsewhere, each stage begins with one.

This module needs nothing but Python, because it starts before anything is installed.
"""

import json
import os
import queue
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from common.flag_parser import FlagParser
from common.flag_types import seed


class Stage(NamedTuple):
    """A part of the demo."""

    title: str
    """What it does."""
    begins: str
    """Regular expression of the line of output that begins it."""
    seconds: float
    """How long it takes on two AVX2 cores that do nothing else."""


STAGES = (
    Stage("set-up and data", "", 85),
    Stage("pretraining on images", r"^\[2/4\]", 60),
    Stage("training on videos", r"^\[3/4\]", 177),
    Stage("test and report", r" I testing ", 10),
)
STEP = re.compile(r"epoch (\d+)/(\d+) step (\d+)/(\d+)")
LEAST_SHARE = 0.2  # of a stage, before its own speed counts
SKIPPED = 0.1  # share of its time within which a stage has only found the files of an earlier demo


class Progress:
    """How far the demo is, from its output and the clock.

    The time left is that of `STAGES`, multiplied by how much longer this machine took for what it has computed so far.
    The set-up is no part of that ratio, because it depends on the network, and neither is what a second run skips.

    Args:
        clock: Returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self.stage, self.share = 0, 0.0
        self._began = clock()
        self._taken, self._expected = 0.0, 0.0  # seconds of the finished stages after the set-up, here and in STAGES

    def read(self, line: str) -> bool:
        """Take a line of output into account; return whether it begins another stage."""
        if step := STEP.search(line):
            epoch, epochs, update, updates = map(int, step.groups())
            self.share = (epoch + update / updates) / epochs
        following = self.stage + 1  # no other: the pretrained weights are tested, too
        if following == len(STAGES) or not re.search(STAGES[following].begins, line):
            return False
        now = self._clock()
        spent, planned = now - self._began, STAGES[self.stage].seconds
        if self.stage > 0 and spent > SKIPPED * planned:
            self._taken += spent
            self._expected += planned
        self.stage, self.share, self._began = following, 0.0, now
        return True

    def seconds_left(self) -> float:
        """Return the estimated time until the end of the demo in seconds."""
        spent, planned = self._clock() - self._began, STAGES[self.stage].seconds
        taken, expected = self._taken, self._expected
        if self.share > LEAST_SHARE:
            taken, expected = taken + spent, expected + self.share * planned
        slower = taken / expected if expected else 1.0
        if self.stage == 0:
            left = max(0.0, planned - spent)
        else:
            left = slower * planned * (1 - self.share) if self.share else max(0.0, slower * planned - spent)
        return left + slower * sum(stage.seconds for stage in STAGES[self.stage + 1 :])

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left()), 60)
        return (
            f"demo {self.stage + 1}/{len(STAGES)}: {STAGES[self.stage].title}, about {minutes}:{seconds:02} min left"
        )


def with_ticks(lines: Iterable[str], seconds: float = 1.0) -> Iterator[str | None]:
    """Yield lines as they come, and None whenever none has come for so many seconds."""
    waiting: queue.Queue = queue.Queue()

    def read() -> None:
        for line in lines:
            waiting.put((line,))
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            item = waiting.get(timeout=seconds)
        except queue.Empty:
            yield None
            continue
        if item is None:
            return
        yield item[0]


def show(lines: Iterable[str | None], progress: Progress, stream: TextIO) -> None:
    """Copy lines of output, with the progress below them on a terminal, and at the start of each stage elsewhere.

    Args:
        lines: The output; None where only the time has passed.
        progress: Follows the output.
        stream: Where to write.
    """
    terminal = stream.isatty()
    clear = "\r\x1b[K" if terminal else ""
    for line in lines:
        if line is not None:
            begins = progress.read(line)
            if begins and not terminal:
                stream.write(f"{progress}\n")
            stream.write(f"{clear}{line.rstrip()}\n")
        if terminal:
            stream.write(f"{clear}{progress}")
        stream.flush()
    stream.write(clear)


def farewell(output: Path, python: str) -> str:
    """Return the result of the demo and what to try next; `python` is the interpreter of the environment."""
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    checkpoint, video = output / "checkpoint-best.pth", output / "data" / "videos" / "test" / "00004.mp4"
    command = shlex.join([python, "run_inference.py", "--checkpoint", str(checkpoint), str(video)])
    page = shlex.join([python, "run_demo_app.py", "--checkpoint", str(checkpoint)])
    tested = f"{results['videos']} videos x {results['views']} views"
    return f"""
top-1 {results["top1"]:.2f} % (chance {100 / results["classes"]:.2f} %) on {tested}
Look at {output / "report.html"} first: accuracy by class, mistakes as clips, calibration, curves.

Next:
  predict a video (any file; this one moves clockwise)
    {command}
  see where the model looks: heat maps, and a copy of the video with them
    {command} --heatmap {output / "heat.png"} --annotate {output / "annotated.mp4"}
  drop videos on a page in the browser
    {python} -m pip install -r requirements-extras.txt && {page}
"""


def run(command: Sequence[str], environment: dict[str, str], progress: Progress) -> None:
    """Run a command and show its output; exit with its status if it fails."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, env=environment, **pipes) as child:
        try:
            show(with_ticks(child.stdout), progress, sys.stdout)
        except KeyboardInterrupt:  # the child has received it, too
            child.wait()
            raise SystemExit(130) from None
    if child.returncode:
        raise SystemExit(f"the demo ended with status {child.returncode} in stage {progress.stage + 1}; see above")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/demo"), help="folder of data and results")
    parser.add_argument("--seed", type=seed, default=0, help="seed of weights and order; the data stays the same")
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="environment that make setup creates")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    binaries = options.venv / "bin"
    path = os.pathsep.join([str(binaries.absolute()), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONUNBUFFERED": "1"}
    progress = Progress()
    print(progress, flush=True)
    variables = [f"VENV={options.venv}", f"OUTPUT={options.output}"]
    run(["make", "--no-print-directory", "-j2", "setup", "demo-data", *variables], environment, progress)
    run(["bash", "scripts/demo.sh", str(options.output), str(options.seed)], environment, progress)
    print(farewell(options.output, str(binaries / "python")), end="")
    print(f"The demo took {time.monotonic() - began:.0f} s.")


if __name__ == "__main__":
    main()
