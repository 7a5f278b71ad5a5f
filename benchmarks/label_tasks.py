"""Several labels and numbers on moving digits, with controls that must fail.

    python -m benchmarks.label_tasks --output outputs/label_tasks

motions            no, one or two digits that move at once, `--task multilabel`
motion             the class of the motion of one digit, `--task classification` and, with the same lists, multilabel
speed              the speed of one digit to the right in pixels per frame, `--task regression`
labels exchanged   the controls: the training labels of motions and speed, exchanged between the clips

The table compares the metrics of results.json with those that scikit-learn computes from scores.npz. Runs that have
finished with the same command are not repeated. Unknown flags are passed to the runs.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score, r2_score

from benchmarks.documents import table, write_and_print
from benchmarks.label_control import shuffle_labels
from benchmarks.run_queue import command_line, exit_status, machine, read_results, run_missing
from common.files import write_once
from common.flag_parser import FlagParser
from common.flag_types import positive_int, seed
from datasets.annotations import read_list
from datasets.labels import LabelTask
from datasets.list_writing import format_list
from datasets.preparation.digit_labels import write_set
from datasets.preparation.moving_digits import SPLITS

SCRIPT, RECIPE = "run_class_finetuning.py", "moving_digits/nano_f8_res32"
SIZE, NUM_FRAMES = 64, 8
FASTER = ["--bimamba_type", "v2", "--dt_init", "mamba"]  # learns these motions in the fewest steps, docs/ablation.md
RUNS: dict[str, tuple[str, LabelTask, bool]] = {
    "motions": ("motions", "multilabel", False),
    "speed": ("speed", "regression", False),
    "motions, labels exchanged": ("motions", "multilabel", True),
    "speed, labels exchanged": ("speed", "regression", True),
    "motion": ("motion", "classification", False),
    "motion, multilabel form": ("motion", "multilabel", False),
}
"""Set, task, and whether the training labels are exchanged, of each run."""
UNCHANGED = {"speed": ["--scale", "1", "1", "--ratio", "1", "1"]}  # a crop that is enlarged moves faster


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the table; return 1 if a run failed."""
    options, passed_on = parse_arguments(arguments)
    settings = {"seed": options.seed, "num_frames": NUM_FRAMES, "size": SIZE}
    settings |= {"train": options.train, "val": options.test, "test": options.test}
    for name in dict.fromkeys(name for name, _, _ in RUNS.values()):
        folder = options.output / "data" / name
        write_once(folder / "settings.json", settings, partial(_write_data, name, folder, settings))
    commands = {_folder(run): _command(run, options, passed_on) for run in RUNS}
    failed = run_missing(commands, options.output, options.jobs)
    text = document(options.output, command_line("benchmarks.label_tasks", arguments))
    write_and_print(options.output / "table.md", text)
    return exit_status(failed, options.output)


def parse_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line into options and the flags that are passed to the runs."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/label_tasks"), help="folder (%(default)s)")
    parser.add_argument("--train", type=positive_int, default=1000, help="training clips of a set (%(default)s)")
    parser.add_argument("--test", type=positive_int, default=250, help="validation and test clips each (%(default)s)")
    parser.add_argument("--epochs", type=positive_int, default=6, help="of a run (%(default)s)")
    parser.add_argument("--seed", type=seed, default=0, help="of the data and the runs (%(default)s)")
    parser.add_argument("--jobs", type=positive_int, default=1, help="parallel runs (%(default)s)")
    return parser.parse_known_args(arguments)


def document(output: Path, command: str) -> str:
    """Return the table of the finished runs in Markdown."""
    columns = ["run", "metric", "test", "scikit-learn on scores.npz", "without a network"]
    rows = [(run, *row) for run in RUNS for row in _rows(output / _folder(run))]
    return f"`{command}`\n\n{machine()}.\n\n{table(columns, rows)}\n"


def _rows(folder: Path) -> list[tuple[str, str, str, str]]:
    """Return the metric, its value, scikit-learn's, and that of the best guess without a network, of a run."""
    results = read_results(folder)
    if results is None:
        return []
    with np.load(folder / "scores.npz") as scores:
        if results["task"] == "regression":
            targets, found = scores["targets"][:, 0], scores["predictions"][:, 0]
            (figures,) = results["targets"]
            mse = float(((found - targets) ** 2).mean())
            return [
                ("R²", f"{figures['r2']:.4f}", f"{r2_score(targets, found):.4f}", "0 (mean of the test list)"),
                ("MSE", f"{figures['mse']:.4f}", f"{mse:.4f}", f"{figures['constant_mse']:.4f} (training mean)"),
            ]
        if results["task"] == "multilabel":
            labels = scores["labels"].astype(bool)
        else:
            labels = np.eye(results["classes"], dtype=bool)[scores["label"]]
        precisions = [
            average_precision_score(labels[:, label], scores["scores"][:, label])
            for label in np.flatnonzero(labels.any(0))
        ]
        prior = labels[:, labels.any(0)].mean()
        stated = f"{results['mean_ap']:.4f}" if "mean_ap" in results else ""
        rows = [("mAP", stated, f"{np.mean(precisions):.4f}", f"{prior:.4f} (share of clips)")]
        if (labels.sum(1) == 1).all():
            stated = f"{results['top1'] / 100:.4f}" if "top1" in results else ""
            top1 = labels[np.arange(len(labels)), scores["scores"].argmax(1)].mean()
            rows.append(("top-1", stated, f"{top1:.4f}", f"{labels.mean(0).max():.4f} (largest class)"))
        return rows


def _write_data(name: str, folder: Path, settings: dict) -> None:
    """Write a set, and a copy of its lists with exchanged training labels."""
    write_set(name, folder, settings)
    (folder / "exchanged").mkdir(exist_ok=True)
    task = next(task for of_set, task, _ in RUNS.values() if of_set == name)
    for split in SPLITS:
        records, kind = read_list(folder / f"{split}.csv", task=task)
        if split == "train":
            records = shuffle_labels(records, np.random.default_rng(settings["seed"]))
        (folder / "exchanged" / f"{split}.csv").write_text(format_list(records, kind))


def _folder(run: str) -> str:
    return run.replace(", ", "_").replace(" ", "_")


def _command(run: str, options: argparse.Namespace, passed_on: Sequence[str]) -> list[str]:
    name, task, exchanged = RUNS[run]
    data = options.output / "data" / name
    words = [sys.executable, SCRIPT, "--recipe", RECIPE, *FASTER, "--task", task, "--epochs", str(options.epochs)]
    words += ["--seed", str(options.seed), "--no-disable_eval_during_finetuning", "--data_root", str(data.resolve())]
    words += ["--data_path", str((data / "exchanged" if exchanged else data).resolve())]
    return [
        *words,
        *UNCHANGED.get(name, []),
        *passed_on,
        "--output_dir",
        str((options.output / _folder(run)).resolve()),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
