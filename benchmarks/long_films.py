"""Windows over films whose class is the order of three motions, far apart in time.

    make demo && python -m benchmarks.long_films --demo outputs/demo

A window that is shorter than the time between two motions shows one of them at a time, so its best accuracy is chance,
1 in 6 orders; a window of half a film shows two; a clip spread over the whole film shows all. As published runs on
long films start from weights of short clips, all runs start from the demo's model, which tells single motions apart,
at half its resolution: with a quarter of the tokens, the ends of a film are near enough to the class token to be learnt
in minutes. All make the same number of optimizer steps. Runs that have finished with the same command are not
repeated; unknown flags are passed to the runs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.documents import table, write_and_print
from benchmarks.run_queue import command_line, exit_status, machine, read_results, run_missing
from benchmarks.students import PLAIN
from common.files import write_once
from common.flag_parser import FlagParser
from common.flag_types import positive_int, seed
from datasets.preparation.digit_labels import write_set
from datasets.preparation.moving_digits import FRAME_RATE

SCRIPT, RECIPE = "run_class_finetuning.py", "moving_digits/nano_f8_res32"
DEMO_MODEL = ["--dt_init", "mamba", "--drop_path", "0", *PLAIN]
FILM = 240  # frames
WINDOWS = {"a tenth": 0.1, "half": 0.5, "the whole film": 0.0}
"""Length of the windows of each run, as a share of a film; 0 for no windows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the table; return 1 if a run failed."""
    options, passed_on = parse_arguments(arguments)
    data = options.output / "data"
    settings = {"seed": options.seed, "num_frames": FILM, "size": 64}
    settings |= {"train": options.train, "val": options.test, "test": options.test}
    write_once(data / "settings.json", settings, lambda: write_set("films", data, settings))
    commands = {_folder(run): _command(run, options, passed_on) for run in WINDOWS}
    failed = run_missing(commands, options.output, options.jobs)
    text = document(options.output, command_line("benchmarks.long_films", arguments))
    write_and_print(options.output / "table.md", text)
    return exit_status(failed, options.output)


def parse_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line into options and the flags that are passed to the runs."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("outputs/demo"), help="output of make demo (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("outputs/long_films"), help="folder (%(default)s)")
    parser.add_argument("--train", type=positive_int, default=1600, help="training films (%(default)s)")
    parser.add_argument("--test", type=positive_int, default=240, help="validation and test films each (%(default)s)")
    parser.add_argument("--steps", type=positive_int, default=800, help="optimizer steps of a run (%(default)s)")
    parser.add_argument("--frames", type=positive_int, default=32, help="frames of a clip (%(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="of the data and the runs (%(default)s)")
    parser.add_argument("--jobs", type=positive_int, default=1, help="parallel runs (%(default)s)")
    return parser.parse_known_args(arguments)


def document(output: Path, command: str) -> str:
    """Return the table of the finished runs in Markdown."""
    rows = []
    for run in WINDOWS:
        results = read_results(output / _folder(run))
        if results is not None:
            windows = results["list"].get("windows", results["videos"])
            rows.append((run, windows, f"{results['top1']:.1f} %", f"{100 / results['classes']:.1f} %"))
    columns = ["window", "windows in the test", "top-1", "chance"]
    return f"`{command}`\n\n{machine()}.\n\n{table(columns, rows)}\n"


def _folder(run: str) -> str:
    return run.replace(" ", "_")


def _command(run: str, options: argparse.Namespace, passed_on: Sequence[str]) -> list[str]:
    data = str((options.output / "data").resolve())
    seconds = WINDOWS[run] * FILM / FRAME_RATE
    words = [sys.executable, SCRIPT, "--recipe", RECIPE, *DEMO_MODEL, "--sampling", "sparse"]
    words += ["--finetune", str((options.demo / "checkpoint-best.pth").resolve())]
    words += ["--num_frames", str(options.frames), "--steps", str(options.steps), "--seed", str(options.seed)]
    words += ["--window_seconds", f"{seconds:g}", "--window_stride", f"{seconds / 2 or 1:g}", "--nb_classes", "6"]
    words += ["--data_path", data, "--data_root", data, *passed_on]
    return [*words, "--output_dir", str((options.output / _folder(run)).resolve())]


if __name__ == "__main__":
    raise SystemExit(main())
