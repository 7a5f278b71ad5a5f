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
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.ablation_table import Score, write_document
from common.flag_parser import FlagParser
from common.flag_types import non_negative_int, positive_int, seed
from models.config import ModelConfig, Setting
from tools.make_moving_digits import make_data_set

ROOT = Path(__file__).resolve().parent.parent
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
    failed = [] if options.table_only else run_all(commands, options)
    scores = read_scores(commands, options.output)
    if scores:
        words = ["python", "-m", "benchmarks.ablation", *(arguments if arguments is not None else sys.argv[1:])]
        shared = shlex.join(["python", *base[1:]] if base[0] == sys.executable else base)
        text = write_document(options.document, scores, list(FACTORS), shlex.join(words), shared)
        print(text)
    for run in failed:
        print(f"failed: {run.name}, see {options.output / run.name / 'run.log'}", file=sys.stderr)
    return 1 if failed or not scores else 0


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


def run_all(commands: dict[Run, list[str]], options: argparse.Namespace) -> list[Run]:
    """Run what has not finished, `options.jobs` in parallel; return the runs that failed."""
    missing = [run for run, command in commands.items() if not is_finished(options.output / run.name, command)]
    print(f"{len(commands) - len(missing)} of {len(commands)} runs exist; {options.jobs} in parallel")
    start, failed = time.monotonic(), []
    with ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda run: _run(options, run, commands[run]), missing)
        for done, (run, status) in enumerate(results, start=1):
            if status:
                failed.append(run)
            left = (time.monotonic() - start) / done * (len(missing) - done) / 60
            print(f"{done}/{len(missing)} {run.name}: {'failed' if status else 'done'}; about {left:.0f} min left",
                  flush=True)  # fmt: skip
    return failed


def is_finished(folder: Path, command: list[str]) -> bool:
    """Return whether the run in `folder` has been tested with the same command."""
    return (folder / "results.json").is_file() and _same_command(folder, command)


def _same_command(folder: Path, command: list[str]) -> bool:
    saved = folder / "command.json"
    return saved.is_file() and json.loads(saved.read_text()) == command


def _run(options: argparse.Namespace, run: Run, command: list[str]) -> tuple[Run, int]:
    """Run one command with its output in run.log; runs with other settings are not resumed."""
    folder = options.output / run.name
    folder.mkdir(parents=True, exist_ok=True)
    fresh = [] if _same_command(folder, command) else ["--no_auto_resume"]
    (folder / "results.json").unlink(missing_ok=True)
    if not fresh or not any(folder.glob("checkpoint-*.pth")):
        (folder / "command.json").write_text(json.dumps(command))
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    environment = os.environ | ({} if options.data_root else {"OMP_NUM_THREADS": str(threads)})
    with open(folder / "run.log", "a", encoding="utf-8") as log:
        status = subprocess.run([*command, *fresh], cwd=ROOT, env=environment, stdout=log, stderr=log).returncode
    if status == 0:
        (folder / "command.json").write_text(json.dumps(command))
        for checkpoint in folder.glob("checkpoint-*.pth"):
            checkpoint.unlink()
    return run, status


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
