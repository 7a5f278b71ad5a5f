"""What masked pretraining is worth with few labels: moving digits, a teacher of still digits, several seeds.

    python -m benchmarks.masked_effect                     about a quarter of an hour on two idle CPU cores

For every seed, a model of images learns to tell still digits apart. It is the teacher of a student that is pretrained
on the videos without their labels. The motions of a few labelled videos are then learnt from scratch, from scratch
with the seconds of teacher and pretraining added, from the model of images, and from the student. All are tested on
the same videos. Each run has a folder in --output; finished runs are not repeated, interrupted ones are resumed.
Unknown flags are passed on to the runs.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.documents import write_and_print
from benchmarks.run_queue import command_line, exit_status, machine, read_results, run_missing
from common.files import atomic_write
from common.flag_parser import FlagParser
from common.flag_types import positive_int, seed
from datasets.annotations import read_list
from datasets.list_writing import format_list
from datasets.preparation.moving_digits import CLASSES
from models.masks import MASKS
from tools.make_moving_digits import make_data_set

IMAGES, MASKED, VIDEOS = "run_pretrain_imagenet.py", "run_pretrain_masked.py", "run_class_finetuning.py"
DATA = dict(
    seed=0, train=1600, val=320, test=640, num_frames=8, size=64, frame_clips=0, images_train=2600, images_val=400
)
# No mirroring, because labels are directions.
SHARED = [
    "--model", "videomambapro_nano", "--dt_init", "mamba", "--input_size", "64", "--short_side_size", "64",
    "--num_sample", "1", "--num_workers", "1", "--aa", "none", "--hflip", "0", "--reprob", "0", "--scale", "1", "1",
    "--ratio", "1", "1", "--warmup_epochs", "1", "--lr_base", "16", "--layer_decay", "1", "--device", "cpu",
]  # fmt: skip
PLAIN = ["--mixup", "0", "--cutmix", "0", "--smoothing", "0"]
FINETUNING = [
    *PLAIN, "--batch_size", "16", "--lr", "1e-3", "--num_frames", "8", "--sampling_rate", "1", "--drop_path", "0",
    "--test_num_segment", "1", "--test_num_crop", "1", "--disable_eval_during_finetuning",
]  # fmt: skip
ARMS = {
    "scratch": "from scratch",
    "scratch_long": "from scratch, with the seconds of teacher and pretraining",
    "from_images": "from supervised images, the teacher itself",
    "from_masked": "from masked pretraining with this teacher",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the table; return 1 if a run failed."""
    options, passed_on = parse_arguments(arguments)
    failed = []
    if not options.table_only:
        make_data_set(options.output / "data", DATA | {"train": options.videos})
        for number in options.seeds:
            write_lists(options, number)
        for stage in range(3):
            commands = {}
            for number in options.seeds:
                commands |= stages(options, number, passed_on)[stage] if not failed else {}
            failed += run_missing(commands, options.output, options.jobs)
    text = document(options, command_line("benchmarks.masked_effect", arguments))
    write_and_print(options.output / "masked_effect.md", text)
    return exit_status(failed, options.output)


def parse_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line into options and the flags that are passed to the runs."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs/masked_effect"), help="folder (%(default)s)")
    parser.add_argument("--seeds", type=seed, nargs="+", default=[0, 1, 2], help="of videos and runs (default: 0 1 2)")
    parser.add_argument("--per_class", type=positive_int, default=10, help="labelled videos per motion (default: 10)")
    parser.add_argument(
        "--videos", type=positive_int, default=DATA["train"], help="videos without labels (%(default)s)"
    )
    parser.add_argument("--epochs", type=positive_int, default=30, help="of each fine-tuning (default: 30)")
    parser.add_argument("--image_epochs", type=positive_int, default=6, help="of the teacher (default: 6)")
    parser.add_argument("--masked_epochs", type=positive_int, default=6, help="of the pretraining (default: 6)")
    parser.add_argument(
        "--long_epochs",
        type=positive_int,
        help="of the long run from scratch, where a busy machine makes seconds meaningless (default: as many as the "
        "seconds of teacher and pretraining allow)",
    )
    parser.add_argument("--mask_type", choices=list(MASKS), default="random", help="(default: random)")
    parser.add_argument("--mask_ratio", default="0.5", help="share of hidden patches (default: 0.5)")
    parser.add_argument("--jobs", type=positive_int, default=2, help="parallel runs (default: 2)")
    parser.add_argument("--table_only", action="store_true", help="run nothing; write the table of existing results")
    return parser.parse_known_args(arguments)


def write_lists(options: argparse.Namespace, number: int) -> None:
    """Write the list of the labelled videos that a seed draws, and the one of all videos without their labels."""
    data, folder = options.output / "data", options.output / f"seed_{number}"
    records, kind = read_list(data / "videos" / "train.csv")
    rng, few = np.random.default_rng(number), []
    for label in range(len(CLASSES)):
        members = [record for record in records if record.target == label]
        few += [members[place] for place in sorted(rng.permutation(len(members))[: options.per_class])]
    with atomic_write(folder / "train.csv", "w") as file:
        file.write(format_list(few, kind))
    with atomic_write(folder / "unlabelled.csv", "w") as file:
        file.writelines(f"{record.path}\n" for record in records)


def stages(options: argparse.Namespace, number: int, passed_on: list[str]) -> list[dict[str, list[str]]]:
    """Return the commands of a seed's runs by name; a stage needs the results of those before it.

    The long run from scratch has as many epochs as its seconds allow, once those of the others are known, or the given
    number.
    """
    output, data = options.output.resolve(), options.output.resolve() / "data"
    folder = f"seed_{number}"

    def command(script: str, name: str, *words: object) -> dict[str, list[str]]:
        flags = [*SHARED, *map(str, words), "--seed", str(number), "--data_root", str(data)]
        return {f"{folder}/{name}": [sys.executable, script, *flags, "--output_dir", str(output / folder / name),
                                     *passed_on]}  # fmt: skip

    def finetune(name: str, epochs: int, weights: str = "") -> dict[str, list[str]]:
        lists = ["--train_list", output / folder / "train.csv", "--test_list", data / "videos" / "test.csv"]
        start = ["--finetune", output / folder / weights / "checkpoint-latest.pth"] if weights else []
        return command(VIDEOS, name, *FINETUNING, "--nb_classes", len(CLASSES), *lists, "--epochs", epochs, *start)

    images = command(
        IMAGES, "images", *PLAIN, "--data_set", "custom", "--data_path", data / "images", "--batch_size", 32,
        "--lr", "1e-3", "--epochs", options.image_epochs, "--color_jitter", 0,
    )  # fmt: skip
    masked = command(
        MASKED, "masked", "--train_list", output / folder / "unlabelled.csv", "--crop", "area", "--num_frames", 8,
        "--teacher", output / folder / "images" / "checkpoint-latest.pth", "--mask_type", options.mask_type,
        "--mask_ratio", options.mask_ratio, "--probe_list", data / "videos" / "val.csv", "--eval_freq", 1000,
        "--batch_size", 16, "--lr", "1e-3", "--min_lr", "1e-6", "--epochs", options.masked_epochs,
    )  # fmt: skip
    last = finetune("from_masked", options.epochs, "masked")
    known = [seconds_of(options.output / folder / name) for name in ("scratch", "images", "masked")]
    if all(known):
        longer = options.long_epochs or round(options.epochs * sum(known) / known[0])
        last |= finetune("scratch_long", longer)
    first = images | finetune("scratch", options.epochs)
    return [first, masked | finetune("from_images", options.epochs, "images"), last]


def seconds_of(folder: Path) -> float:
    """Return the seconds that a finished run trained for; 0 if it has not finished."""
    log = folder / "log.txt"
    if not (folder / "results.json").is_file() or not log.is_file():
        return 0.0
    return sum(json.loads(line)["seconds"] for line in log.read_text().splitlines())


def document(options: argparse.Namespace, command: str) -> str:
    """Return the tables: mean and standard deviation over the seeds that have finished, and what each seed gave."""
    found = {arm: {} for arm in [*ARMS, "images", "masked"]}
    for arm in found:
        for number in options.seeds:
            results = read_results(options.output / f"seed_{number}" / arm)
            if results is not None:
                found[arm][number] = results
    lines = [
        f"Written by `{command}` on {machine()}.\n",
        f"Top-1 in percent on {DATA['test']} videos after training on {options.per_class} labelled ones of each of "
        f"{len(CLASSES)} motions; chance is {100 / len(CLASSES):.1f}.\n",
        "| start | mean | standard deviation | seeds | each | epochs | seconds of all trainings |",
        "| --- | ---: | ---: | ---: | --- | --- | ---: |",
    ]
    before = {"from_images": ("images",), "from_masked": ("images", "masked")}
    for arm, words in ARMS.items():
        top1 = [results["top1"] for results in found[arm].values()]
        if not top1:
            continue
        folders = [options.output / f"seed_{number}" for number in found[arm]]
        seconds = [sum(seconds_of(f / name) for name in (arm, *before.get(arm, ()))) for f in folders]
        epochs = sorted({len((folder / arm / "log.txt").read_text().splitlines()) for folder in folders})
        spread = f"{statistics.stdev(top1):.1f}" if len(top1) > 1 else ""
        lines.append(
            f"| {words} | {statistics.mean(top1):.1f} | {spread} | {len(top1)} | "
            f"{', '.join(f'{value:.1f}' for value in top1)} | {', '.join(map(str, epochs))} | "
            f"{statistics.mean(seconds):.0f} |"
        )
    probes = [results["figures"] for results in found["masked"].values()]
    if probes:
        knn = ", ".join(f"{figures['knn']:.1f} and {figures['knn_patches']:.1f}" for figures in probes)
        digits = ", ".join(f"{results['top1']:.1f}" for results in found["images"].values())
        lines.append(f"\nTeachers on still digits: {digits} %. Nearest neighbours of the pretrained students on the "
                     f"validation videos, by class token and by patches: {knn} %.")  # fmt: skip
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    raise SystemExit(main())
