"""Measure what a list costs at the start of a run, for each form of list: `python -m benchmarks.lists`.

Prints the processor seconds of reading it and counting its classes, how much the process grew meanwhile and what of
that it kept, and what a dataloader worker, a fork of the process, owns after one pass over the records. Records are
stored in columns (`datasets/records.py`); what the same ones take as a list of objects, on top, stands beside.

With `--against FOLDER`, a checkout of another version, each figure is followed by its ratio to the other version's.
The versions take turns, and figures are medians.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from common.flag_parser import FlagParser
from common.flag_types import positive_int

ROOT = Path(__file__).parent.parent
MIB = 1024  # KiB
COLUMNS = {"seconds": "CPU-s", "peak": "peak", "kept": "kept", "worker": "worker"}
OBJECTS = {"objects_kept": "objects: kept", "objects_worker": "worker"}
FORMS: dict[str, tuple[str, str, Callable[[int], str]]] = {
    "videos": ("classification", "", lambda i: f"{_name(i)}.mp4 {i % 400}"),
    "frames": ("classification", "", lambda i: f"{_name(i)} {30 + i % 300} {i % 400}"),
    "segments": (
        "classification",
        "path,start,end,label",
        lambda i: f"{_name(i)}.mp4,{i % 90}.25,{i % 90 + 3},{i % 400}",
    ),
    "labels": ("multilabel", "", lambda i: f"{_name(i)}.mp4 {i % 157};{(i + 31) % 157};{(i + 80) % 157}"),
    "numbers": ("regression", "", lambda i: f"{_name(i)}.mp4 {i % 1000 / 8};-{i % 77}.5"),
}
"""Task, header and lines of each form of list."""


def main(words: Sequence[str] | None = None) -> int:
    """Print the measurements; returns the exit status."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=positive_int, default=240_000, help="of each list (default: %(default)s)")
    parser.add_argument("--rounds", type=positive_int, default=3, help="readings of each list (default: %(default)s)")
    parser.add_argument("--against", type=Path, help="checkout of another version")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="of lists (default: all)")
    options = parser.parse_args(words)
    if options.against and not (options.against / "datasets" / "annotations.py").is_file():
        parser.error(f"--against {options.against} is not a checkout of this repository")
    shown = COLUMNS if options.against else COLUMNS | OBJECTS
    print(f"{options.lines} lines; memory in MiB")
    print(f"{'':10}" + "".join(f"{title:>15}" for title in shown.values()))
    for form in options.forms:
        versions = [ROOT, options.against.resolve()] if options.against else [ROOT]
        costs = _measure(form, options.lines, versions, options.rounds)
        print(f"{form:10}" + "".join(f"{_cell(entry, *costs):>15}" for entry in shown), flush=True)
    return 0


def _name(i: int) -> str:
    return f"train/class_{i % 400:03}/{i:09}_000011_000021"


def _measure(form: str, lines: int, versions: Sequence[Path], rounds: int) -> list[dict[str, float]]:
    """Return the medians of what reading a list costs each version."""
    task, header, line = FORMS[form]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.csv"
        with file.open("w") as writing:
            writing.writelines(f"{text}\n" for text in [header] * bool(header))
            writing.writelines(f"{line(i)}\n" for i in range(lines))
        runs = [[_read(file, task, version) for version in versions] for _ in range(rounds)]
    return [
        {entry: statistics.median(run[entry] for run in of_version) for entry in of_version[0]}
        for of_version in zip(*runs, strict=True)
    ]


def _read(file: Path, task: str, version: Path) -> dict[str, float]:
    """Read a list in a process of its own with the code of a version."""
    script = ROOT / "benchmarks" / "list_reading.py"
    command = [sys.executable, "-P", script, file, task]  # -P: the script's own folder is not searched for modules
    answer = subprocess.run(command, env=os.environ | {"PYTHONPATH": version}, stdout=subprocess.PIPE, check=True)
    return json.loads(answer.stdout)


def _cell(entry: str, ours: dict[str, float], others: dict[str, float] | None = None) -> str:
    figure = f"{ours[entry]:.2f}" if entry == "seconds" else f"{ours[entry] / MIB:.1f}"
    if not others:
        return figure
    return f"{figure} ({ours[entry] / others[entry]:.2f})" if others[entry] else f"{figure} (of 0)"


if __name__ == "__main__":
    raise SystemExit(main())
