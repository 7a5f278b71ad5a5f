"""What few labelled clips give: probes of trained weights, and a student with and without the scores of its teacher.

    make demo && python -m benchmarks.students --demo outputs/demo --seeds 0 1 2

The clips are the demo's moving digits, of which --videos are drawn for each seed. The demo's model is the teacher; the
student, a smaller one, starts from random weights. Two controls must stay near chance or gain nothing: probes of
shuffled labels, and a student of another clip's scores. Finished runs are not repeated.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.documents import over_seeds, table, write_and_print
from benchmarks.label_control import shuffle_labels
from benchmarks.run_queue import ROOT, command_line, exit_status, machine, read_results, run_missing
from common.flag_parser import FlagParser
from common.flag_types import positive_int, seed
from datasets.annotations import read_list
from datasets.list_writing import format_list

SCRIPT = "run_class_finetuning.py"
# No mirroring, because the labels are directions; no cropping, erasing or mixing, because the moving digits are small.
PLAIN = ["--aa", "none", "--hflip", "0", "--scale", "1", "1", "--ratio", "1", "1", "--reprob", "0", "--mixup", "0",
         "--cutmix", "0", "--smoothing", "0"]  # fmt: skip
READING = ["--num_frames", "8", "--sampling_rate", "1", "--num_sample", "1", "--num_workers", "1",
           "--test_num_segment", "1", "--test_num_crop", "1"]  # fmt: skip
STUDENT = ["--model", "videomambapro_nano", "--embed_dim", "48", "--depth", "4", "--dt_init", "mamba", "--input_size",
           "32", "--short_side_size", "32", "--epochs", "10", "--warmup_epochs", "1", "--lr", "16e-3", "--batch_size",
           "16", "--layer_decay", "1", "--drop_path", "0", "--disable_eval_during_finetuning"]  # fmt: skip
PROBE = ["--model", "videomambapro_nano", "--input_size", "64", "--short_side_size", "64", "--batch_size", "16",
         "--epochs", "5", "--warmup_epochs", "0"]  # fmt: skip
TEACHER, IMAGES = "checkpoint-best.pth", "pretrain/checkpoint-best.pth"
SOFT = ["--distill_temperature", "2", "--label_weight", "0.5", "--distill_weight", "0.5"]
# name -> flags; the folder of lists and files to fill in
VARIANTS = {
    "student, labels alone": [*STUDENT],
    "student, labels and the teacher's scores": [*STUDENT, "--teacher_scores", "{lists}/teacher/features.npz", *SOFT],
    "control: student, labels and another clip's scores": [*STUDENT, "--teacher_scores", "{lists}/other.npz", *SOFT],
    "linear probe of the teacher": [*PROBE, "--finetune", f"{{demo}}/{TEACHER}", "--probe", "linear"],
    "attentive probe of the teacher": [*PROBE, "--finetune", f"{{demo}}/{TEACHER}", "--probe", "attentive"],
    "linear probe of still digits": [*PROBE, "--finetune", f"{{demo}}/{IMAGES}", "--probe", "linear"],
    "attentive probe of still digits": [*PROBE, "--finetune", f"{{demo}}/{IMAGES}", "--probe", "attentive"],
    "control: linear probe of the teacher, shuffled labels": [
        *PROBE, "--finetune", f"{{demo}}/{TEACHER}", "--probe", "linear", "--train_list", "{lists}/shuffled.csv",
    ],
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the table; return 1 if a run failed."""
    options = parse_arguments(arguments)
    failed = []
    if not options.table_only:
        for number in options.seeds:
            write_lists(options, number)
        failed = run_missing(commands_of(options), options.output, options.jobs)
    text = document(options, command_line("benchmarks.students", arguments))
    write_and_print(options.document, text)
    return exit_status(failed, options.output)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("outputs/demo"), help="output of make demo (%(default)s)")
    parser.add_argument("--videos", type=positive_int, default=1000, help="labelled clips (default: 1000)")
    parser.add_argument("--seeds", type=seed, nargs="+", default=[0, 1, 2], help="of clips and runs (default: 0 1 2)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="(default: all)")
    parser.add_argument("--output", type=Path, default=Path("outputs/students"), help="folder (%(default)s)")
    parser.add_argument("--document", type=Path, default=Path("outputs/students.md"), help="table (%(default)s)")
    parser.add_argument("--jobs", type=positive_int, default=1, help="parallel runs (default: 1)")
    parser.add_argument("--table_only", action="store_true", help="run nothing; write the table of existing results")
    return parser.parse_args(arguments)


def write_lists(options: argparse.Namespace, number: int) -> None:
    """Draw the clips of a seed and write their list, the one with shuffled labels, and the teacher's logits."""
    folder, rng = lists_of(options, number), np.random.default_rng(number)
    records, kind = read_list(options.demo / "data" / "videos" / "train.csv")
    chosen = [records[row] for row in sorted(rng.choice(len(records), options.videos, replace=False))]
    shuffled = shuffle_labels(chosen, rng)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.csv").write_text(format_list(chosen, kind), encoding="utf-8")
    (folder / "shuffled.csv").write_text(format_list(shuffled, kind), encoding="utf-8")
    words = [sys.executable, "-m", "tools.features", options.demo / TEACHER, folder / "train.csv", "--pool", "logits"]
    words += ["--data_root", options.demo / "data", "--output", folder / "teacher", "--quick", "--device", "cpu"]
    subprocess.run([str(word) for word in words], cwd=ROOT, check=True)
    with np.load(folder / "teacher" / "features.npz") as file:
        np.savez(folder / "other.npz", lines=file["lines"], logits=rng.permutation(file["logits"]))


def lists_of(options: argparse.Namespace, number: int) -> Path:
    """Return the folder of a seed's lists."""
    return options.output.resolve() / f"lists_{options.videos}_seed{number}"


def commands_of(options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the command of each run, all of one seed before the next."""
    commands, data = {}, options.demo.resolve() / "data"
    for number in options.seeds:
        lists = lists_of(options, number)
        for name in options.variants:
            words = [word.format(lists=lists, demo=options.demo.resolve()) for word in VARIANTS[name]]
            given = [] if "--train_list" in words else ["--train_list", str(lists / "train.csv")]
            folder = f"{folder_of(name)}_seed{number}"
            commands[folder] = [
                sys.executable, SCRIPT, *words, *given, *READING, *PLAIN, "--data_path", str(data / "videos"),
                "--data_root", str(data), "--seed", str(number), "--device", "cpu",
                "--output_dir", str(options.output.resolve() / folder),
            ]  # fmt: skip
    return commands


def folder_of(variant: str) -> str:
    """Return the folder name of a variant."""
    return "".join(letter if letter.isalnum() else "_" for letter in variant)


def document(options: argparse.Namespace, command: str) -> str:
    """Return the table of the results that exist, in Markdown."""
    rows = []
    for name in options.variants:
        found = [read_results(options.output / f"{folder_of(name)}_seed{number}") for number in options.seeds]
        scores = [results["top1"] for results in found if results]
        if scores:
            rows.append((name, *over_seeds(scores)))
    return (
        f"# Probes and students on moving digits\n\nWritten by `{command}` ({machine()}).\n\nTop-1 in percent on the "
        f"demo's test clips, chance 12.5, from {options.videos} labelled clips, one view.\n\n"
        f"{table(['variant', 'top-1', 'single seeds'], rows)}\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
