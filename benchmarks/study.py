"""Two studies on real videos: an ablation of the method, and a comparison with other models at equal training time.

    python -m benchmarks.study method --splits LISTS1 LISTS2 LISTS3 --data_root VIDEOS --steps 600
        [--image_path LISTS --image_root IMAGES]
    python -m benchmarks.study peers  --splits LISTS1 LISTS2 LISTS3 --data_root VIDEOS --seconds 600
        [--rates 5e-4 1e-3 2e-3 --tuning LISTS]

Folders of lists may contain labels.txt, as written by tools.make_lists. Every variant is trained on each split and
tested on its test list; J-HMDB's three splits test 748 clips, 59 of them more than once. A run that has finished with
the same settings is not repeated, and an interrupted one is resumed (`peers`: restarted). Of several --rates, each
model of `peers` takes the one with which it classifies val.csv of --tuning best, after as much training on its
train.csv; both must be drawn from training videos. The table contains the accuracy over all splits with its confidence
interval, and McNemar's test against the first variant. Unknown flags are passed to the runs (`--device cuda`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.run_queue import command_line, exit_status, is_finished, read_results, run_missing
from benchmarks.study_models import OURS, PEERS, STATIC
from benchmarks.study_table import folder_name, read_variant, run_name, write_study
from common.flag_parser import FlagParser
from common.flag_types import non_negative_int, positive, positive_int, seed
from datasets.label_names import read_label_names
from models.config import ModelConfig

RECIPE, PRETRAIN, FINETUNE = "jhmdb/nano_f8_res96", "run_pretrain_imagenet.py", "run_class_finetuning.py"
BOTH, NEITHER = ["--elemental_residual", "--masked_backward"], ["--no-elemental_residual", "--no-masked_backward"]
V1, V2 = ["--bimamba_type", "v1"], ["--bimamba_type", "v2"]
METHODS = {
    "VideoMambaPro": V1 + BOTH,
    "residual only": [*V1, "--elemental_residual", "--no-masked_backward"],
    "mask only": [*V1, "--no-elemental_residual", "--masked_backward"],
    "neither": V1 + NEITHER,
    "VideoMamba": V2 + NEITHER,
    "VideoMamba with both changes": V2 + BOTH,
}
"""Flags of each variant of the scan."""
STEPS = next(setting.choices for setting in ModelConfig.settings() if setting.name == "dt_init")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the table; return 1 if a run failed."""
    options, passed_on = parse_arguments(arguments)
    variants = [name for name in _variants(options) if name in (options.variants or _variants(options))]
    failed = [] if options.table_only else _run(options, variants, passed_on)
    rows = [read_variant(name, options.output, options.seeds, len(options.splits)) for name in variants]
    command = command_line("benchmarks.study", arguments)
    done = [row for row in rows if row]
    pairs = [(STATIC, OURS)] if options.study == "peers" else []
    listed = options.splits[0] / "labels.txt"
    names = read_label_names(str(listed)) if listed.is_file() else ()
    print(write_study(options.document, options.study, done, command, pairs=pairs, names=names))
    return exit_status(failed, options.output)


def parse_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line: the options, and the flags that go to the runs."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    studies = parser.add_subparsers(dest="study", required=True)
    for study in ("method", "peers"):
        command = studies.add_parser(study)
        command.add_argument("--splits", nargs="+", type=Path, required=True, help="folders of train.csv and test.csv")
        command.add_argument("--data_root", default="", help="folder that the paths in the lists start from")
        command.add_argument("--seeds", type=seed, nargs="+", default=[0], help="random seeds (default: 0)")
        command.add_argument("--variants", nargs="+", metavar="NAME", help="some of them (default: all)")
        command.add_argument("--output", type=Path, default=Path("outputs") / study, help="folder (%(default)s)")
        command.add_argument("--document", type=Path, help="table (default: study.md in --output)")
        command.add_argument("--jobs", type=positive_int, default=1, help="runs at a time (default: 1)")
        command.add_argument("--table_only", action="store_true", help="run nothing, write the table of what there is")
    method, peers = studies.choices["method"], studies.choices["peers"]
    method.add_argument("--steps", type=positive_int, default=600, help="optimizer steps of a run (default: 600)")
    method.add_argument("--image_path", default="", help="lists of images: each variant starts from them, too")
    method.add_argument("--image_root", default="", help="folder that the paths of images start from")
    method.add_argument("--image_epochs", type=non_negative_int, default=10, help="on the images (default: 10)")
    peers.add_argument("--seconds", type=positive, default=600, help="of training, of each model (default: 600)")
    peers.add_argument("--rates", type=positive, nargs="+", default=[1e-3], help="peak learning rate (default: 0.001)")
    peers.add_argument("--tuning", type=Path, help="folder of train.csv and val.csv to choose one of several --rates")
    options, passed_on = parser.parse_known_args(arguments)
    if options.study == "peers" and (len(options.rates) > 1) != bool(options.tuning):
        parser.error("--tuning chooses one of several --rates; give both or neither")
    options.document = options.document or options.output / "study.md"
    unknown = set(options.variants or ()) - set(_variants(options))
    if unknown:
        parser.error(f"--variants {', '.join(sorted(unknown))}: there are {', '.join(_variants(options))}")
    return options, passed_on


def _variants(options: argparse.Namespace) -> list[str]:
    """All variants of a study; the first is what the others are compared with."""
    if options.study == "peers":
        return list(PEERS)
    starts = ["scratch", *(["images"] if options.image_path else [])]
    return [f"{method}, dt_init {steps}, from {start}" for start in starts for steps in STEPS for method in METHODS]


def _run(options: argparse.Namespace, variants: Sequence[str], passed_on: list[str]) -> list[str]:
    if options.study == "peers":
        failed = run_missing(_tuning_runs(options, variants, passed_on), options.output, options.jobs, restart_flag="")
        tuned = [name for name in variants if not any(_tuned(name, rate) in failed for rate in options.rates)]
        return failed + run_missing(
            _peer_runs(options, tuned, passed_on), options.output, options.jobs, restart_flag=""
        )
    pretraining = _pretraining_runs(options, variants, passed_on)
    for variant in (name for name in variants if name.endswith("from images")):
        backbone = _pretrained(options, variant)
        if not is_finished(options.output / backbone, pretraining[backbone]):
            # Its fine-tunings name only its file, which another pretraining is about to replace.
            for command in (options.output / folder_name(variant)).glob("*/command.json"):
                command.unlink()
    failed = run_missing(pretraining, options.output, options.jobs)
    return failed + run_missing(_method_runs(options, variants, passed_on), options.output, options.jobs)


def _lists(options: argparse.Namespace, folder: Path) -> list[str]:
    root = str(Path(options.data_root).resolve()) if options.data_root else ""
    return ["--data_path", str(folder.resolve()), "--data_root", root]


def _runs(options: argparse.Namespace, variants: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return variant, split and seed of all runs, all runs of one seed before the next."""
    splits = range(len(options.splits))
    return [(variant, split, number) for number in options.seeds for split in splits for variant in variants]


def _peer_command(options: argparse.Namespace, variant: str, rate: float, name: str, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "benchmarks.train_peer", "--peer", variant, "--seconds", str(options.seconds),
        "--lr", str(rate), "--output_dir", str((options.output / name).resolve()), *more,
    ]  # fmt: skip


def _tuned(variant: str, rate: float) -> str:
    """Return the folder in --output of a run that tries a rate."""
    return f"rates/{folder_name(variant)}/{rate:g}"


def _tuning_runs(options, variants: Sequence[str], passed_on: list[str]) -> dict[str, list[str]]:
    if not options.tuning:
        return {}
    lists = [*_lists(options, options.tuning), "--test_list", str((options.tuning / "val.csv").resolve())]
    return {
        (name := _tuned(variant, rate)): _peer_command(options, variant, rate, name, *lists, *passed_on)
        for variant in variants
        for rate in options.rates
    }


def _best_rate(options: argparse.Namespace, variant: str) -> float:
    """Return the rate of a model: the only one, or the one with the best validation, of equal ones the least."""

    def accuracy(rate: float) -> float:
        return (read_results(options.output / _tuned(variant, rate)) or {})["top1"]

    return max(sorted(options.rates), key=accuracy) if options.tuning else options.rates[0]


def _peer_runs(options, variants: Sequence[str], passed_on: list[str]) -> dict[str, list[str]]:
    rates = {variant: _best_rate(options, variant) for variant in variants}
    commands = {}
    for variant, split, number in _runs(options, variants):
        name = run_name(variant, split, number)
        lists = [*_lists(options, options.splits[split]), "--seed", str(number)]
        commands[name] = _peer_command(options, variant, rates[variant], name, *lists, *passed_on)
    return commands


def _method_flags(variant: str) -> list[str]:
    method, steps, _ = variant.rsplit(", ", 2)
    return [*METHODS[method], "--dt_init", steps.removeprefix("dt_init ")]


def _pretrained(options: argparse.Namespace, variant: str) -> str:
    """Return the folder in --output of the backbone from which a variant starts."""
    return f"images/{folder_name(variant.rsplit(', ', 1)[0])}"


def _pretraining_runs(options, variants: Sequence[str], passed_on: list[str]) -> dict[str, list[str]]:
    return {
        (name := _pretrained(options, variant)): [
            sys.executable, PRETRAIN, "--model", "videomambapro_nano", *_method_flags(variant), "--data_set", "custom",
            "--data_path", str(Path(options.image_path).resolve()),
            "--data_root", str(Path(options.image_root).resolve()),
            "--input_size", "96", "--batch_size", "64", "--epochs", str(options.image_epochs), "--lr", "16e-3",
            "--weight_decay", "0.05", "--warmup_epochs", "1", "--aa", "none", "--color_jitter", "0.2", "--reprob", "0",
            "--mixup", "0", "--cutmix", "0", "--scale", "0.35", "1", "--num_workers", "1",
            "--output_dir", str((options.output / name).resolve()), *passed_on,
        ]
        for variant in variants
        if variant.endswith("from images")
    }  # fmt: skip


def _method_runs(options, variants: Sequence[str], passed_on: list[str]) -> dict[str, list[str]]:
    commands = {}
    for variant, split, number in _runs(options, variants):
        name = run_name(variant, split, number)
        weights = options.output / _pretrained(options, variant) / "checkpoint-best.pth"
        start = ["--finetune", str(weights.resolve())] if variant.endswith("from images") else []
        commands[name] = [
            sys.executable, FINETUNE, "--recipe", RECIPE, *_method_flags(variant), *start,
            *_lists(options, options.splits[split]), "--steps", str(options.steps), "--seed", str(number),
            "--output_dir", str((options.output / name).resolve()), *passed_on,
        ]  # fmt: skip
    return commands


if __name__ == "__main__":
    raise SystemExit(main())
