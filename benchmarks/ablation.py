"""Ablation study: residual and mask on and off, types v1 and v2, both step size initialisations, several seeds.

    python -m benchmarks.ablation                                      moving digits, two CPU cores, an hour
    python -m benchmarks.ablation --data_root DIR --model tiny --gpus 8   your own data set, with its recipe

Each run has a folder in --output. Finished runs with the same settings are not repeated, interrupted runs are resumed.
The table is written to --document whatever the result. Unknown flags are passed on to the runs.
"""

import argparse
import itertools
import json
import os
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ablation_table import Score, write_document
from benchmarks.run_queue import exit_status, is_finished, run_missing
from common.flag_parser import FlagParser
from common.flag_types import non_negative_int, positive_int, seed
from models.config import ModelConfig, Setting
from tools.make_moving_digits import make_data_set

SCRIPT = "run_class_finetuning.py"
DIGITS_RECIPE = "moving_digits/nano_f8_res32"
# The demo's clips with a larger test set; validation selects nothing, and images are not used.
DIGITS = dict(seed=0, train=1600, val=8, test=1280, num_frames=8, size=64, frame_clips=0, images_train=1, images_val=1)


def _levels(setting: Setting) -> dict[str, str]:
    """Return the levels of a factor, each with its flag."""
    if setting.choices:
        return {choice: f"--{setting.flag}={choice}" for choice in setting.choices}
    return {"on": f"--{setting.flag}", "off": f"--no-{setting.flag}"}


# The factors of the ablation are the fields of the model configuration with `factor`, with their levels and flags.
FACTORS = {setting.factor: _levels(setting) for setting in ModelConfig.settings() if setting.factor}


@dataclass(frozen=True)
class Run:
    """One training run: the level of each factor, and a seed."""

    levels: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        """Folder of the run below --output."""
        return "-".join(f"{factor}_{level}" for factor, level in zip(FACTORS, self.levels, strict=True)) + (
            f"/seed_{self.seed}"
        )

    @property
    def flags(self) -> list[str]:
        """The flags that distinguish this run from the others."""
        chosen = [FACTORS[factor][level] for factor, level in zip(FACTORS, self.levels, strict=True)]
        return [*chosen, "--seed", str(self.seed)]


def plan(seeds: Sequence[int], fixed: dict[str, str]) -> list[Run]:
    """List all combinations of levels, seed by seed, so that intermediate results are complete.

    Args:
        seeds: Random seeds.
        fixed: The only level to run, by factor.
    """
    choices = [[fixed[factor]] if factor in fixed else list(levels) for factor, levels in FACTORS.items()]
    return [Run(levels, seed) for seed in seeds for levels in itertools.product(*choices)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the table; return 1 if a run failed."""
    options, passed_on = parse_arguments(arguments)
    runs = plan(options.seeds, dict(pair.split("=") for pair in options.fix))
    base = _base_command(options, passed_on)
    commands = {run: [*base, *run.flags, "--output_dir", str(options.output / run.name)] for run in runs}
    failed = [] if options.table_only else _run_all(commands, options)
    scores = read_scores(commands, options.output)
    if scores:
        words = ["python", "-m", "benchmarks.ablation", *(arguments if arguments is not None else sys.argv[1:])]
        shared = shlex.join(["python", *base[1:]] if base[0] == sys.executable else base)
        text = write_document(options.document, scores, list(FACTORS), shlex.join(words), shared)
        print(text)
    return exit_status(failed, options.output) or int(not scores)


def parse_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line into options and flags for the runs."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/ablation"), help="folder of the runs (%(default)s)"
    )
    parser.add_argument(
        "--document", type=Path, default=Path("docs/ablation.md"), help="file of the table (%(default)s)"
    )
    parser.add_argument("--seeds", type=seed, nargs="+", default=[0, 1, 2], help="random seeds (default: 0 1 2)")
    parser.add_argument(
        "--fix",
        nargs="+",
        default=[],
        metavar="FACTOR=LEVEL",
        help="run only one level of a factor, such as type=v1 dt_init=mamba",
    )
    parser.add_argument(
        "--jobs", type=non_negative_int, default=0, help="parallel runs (default: one per CPU core; 1 on GPUs)"
    )
    parser.add_argument("--table_only", action="store_true", help="run nothing, write the table of the existing runs")
    real = parser.add_argument_group("a real data set")
    real.add_argument("--data_root", default="", help="folder of its videos, and of its lists without --data_path")
    real.add_argument("--data_set", default="custom", help="its recipe (default: custom)")
    real.add_argument("--model", default="tiny", help="tiny, small or middle (default: tiny)")
    real.add_argument("--frames", type=positive_int, default=16, help="frames per clip (default: 16)")
    real.add_argument("--gpus", type=non_negative_int, default=1, help="GPUs per run (default: 1)")
    options, passed_on = parser.parse_known_args(arguments)
    for pair in options.fix:
        factor, _, level = pair.partition("=")
        if level not in FACTORS.get(factor, {}):
            known = "; ".join(f"{name}={'|'.join(levels)}" for name, levels in FACTORS.items())
            parser.error(f"--fix {pair}: choose from {known}")
    options.jobs = options.jobs or (1 if options.data_root else os.cpu_count() or 1)
    return options, passed_on


def _base_command(options: argparse.Namespace, passed_on: list[str]) -> list[str]:
    """Return the part of the command shared by all runs; create the moving digits if no data set is given."""
    if options.data_root:
        launch = ["bash", "scripts/launch.sh", SCRIPT, options.data_set, "--data_root", options.data_root]
        return [*launch, "--model", options.model, "--frames", str(options.frames), "--gpus", str(options.gpus),
                *passed_on]  # fmt: skip
    data = options.output / "data"
    if not options.table_only:
        make_data_set(data, DIGITS)
    lists = ["--data_root", str(data), "--data_path", str(data / "videos")]
    return [sys.executable, SCRIPT, "--recipe", DIGITS_RECIPE, *lists, "--device", "cpu", *passed_on]


def _run_all(commands: dict[Run, list[str]], options: argparse.Namespace) -> list[str]:
    """Run what has not finished and drop the checkpoints of what has; returns the names of the runs that failed."""
    by_name = {run.name: command for run, command in commands.items()}
    failed = run_missing(by_name, options.output, options.jobs, limit_threads=not options.data_root)
    for name in by_name.keys() - set(failed):
        for checkpoint in (options.output / name).glob("checkpoint-*.pth"):
            checkpoint.unlink()
    return failed


def read_scores(commands: dict[Run, list[str]], output: Path) -> list[Score]:
    """Read the results of all finished runs."""
    scores = []
    for run, command in commands.items():
        folder = output / run.name
        if not is_finished(folder, command):
            continue
        results = json.loads((folder / "results.json").read_text())
        seconds = [json.loads(line)["seconds"] for line in (folder / "log.txt").read_text().splitlines()]
        scores.append(Score(run.levels, run.seed, results["top1"], results["videos"], results["classes"],
                            statistics.mean(seconds)))  # fmt: skip
    return scores


if __name__ == "__main__":
    raise SystemExit(main())
