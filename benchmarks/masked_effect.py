"""What masked pretraining is worth with few labels: moving digits, a teacher of still digits, several seeds.

    python -m benchmarks.masked_effect                     about a quarter of an hour on two idle CPU cores

For every seed, a model of images learns to tell still digits apart. It is the teacher of a student that is pretrained
on the videos without their labels. The motions of a few labelled videos are then learnt from scratch, from scratch
with the seconds of teacher and pretraining added, from the model of images, and from the student. All are tested on
the same videos. A linear and an attentive probe of each start, trained on the same few videos, tell what its frozen
features hold; as a control, they must not learn from shuffled labels. Each run has a folder in --output; finished runs
are not repeated, interrupted ones are resumed. Unknown flags are passed on to the runs.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch

import models.videomambapro  # noqa: F401  registers the models
from benchmarks.documents import over_seeds, table, write_and_print
from benchmarks.label_control import shuffle_labels
from benchmarks.run_queue import command_line, exit_status, machine, read_results, run_missing
from common.files import atomic_write
from common.flag_parser import FlagParser
from common.flag_types import positive_int, seed
from datasets.annotations import read_list
from datasets.list_writing import format_list
from datasets.preparation.moving_digits import CLASSES
from engines.probe_settings import ATTENTIVE, LINEAR
from models.checkpoint_file import write_weights
from models.masks import MASKS
from tools.make_moving_digits import make_data_set

WEIGHTS = "checkpoint-latest.pth"
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
    "--test_num_segment", "1", "--test_num_crop", "1",
]  # fmt: skip
TUNE_ALL = "--disable_eval_during_finetuning"
PROBE = ["--probe_lrs", "5e-2", "2e-2", "5e-3", "1e-3"]  # steps are few
ARMS = {
    "scratch": "from scratch",
    "scratch_long": "from scratch, with the seconds of teacher and pretraining",
    "from_images": "from supervised images, the teacher itself",
    "from_masked": "from masked pretraining with this teacher",
}
PROBED = {
    "untrained": "untrained",
    "scratch": "trained from scratch on these videos",
    "images": "supervised images, the teacher itself",
    "masked": "masked pretraining with this teacher",
}
CONTROL, CONTROLLED = "shuffled", "masked"  # labels that say nothing, and the features that are tried on them


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
    parser.add_argument(
        "--compare_masks",
        choices=list(MASKS),
        nargs="+",
        default=[],
        help="other masks at the same ratio (default: none)",
    )
    parser.add_argument("--jobs", type=positive_int, default=2, help="parallel runs (default: 2)")
    parser.add_argument("--table_only", action="store_true", help="run nothing; write the table of existing results")
    return parser.parse_known_args(arguments)


def write_lists(options: argparse.Namespace, number: int) -> None:
    """Write what a seed starts from.

    These are the list of the labelled videos that it draws, the same with shuffled labels, the list of all videos
    without their labels, and untrained weights.
    """
    data, folder = options.output / "data", options.output / f"seed_{number}"
    records, kind = read_list(data / "videos" / "train.csv")
    rng, few = np.random.default_rng(number), []
    for label in range(len(CLASSES)):
        members = [record for record in records if record.target == label]
        few += [members[place] for place in sorted(rng.permutation(len(members))[: options.per_class])]
    with atomic_write(folder / "train.csv", "w") as file:
        file.write(format_list(few, kind))
    with atomic_write(folder / "shuffled.csv", "w") as file:
        file.write(format_list(shuffle_labels(few, rng), kind))
    with atomic_write(folder / "unlabelled.csv", "w") as file:
        file.writelines(f"{record.path}\n" for record in records)
    torch.manual_seed(number)
    model = timm.create_model("videomambapro_nano", dt_init="mamba", img_size=64, num_frames=8, num_classes=0)
    with atomic_write(folder / "untrained" / WEIGHTS) as file:
        write_weights(file, ".pth", model.state_dict(), model.config.values(), {})


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

    def learn(
        name: str, epochs: int, weights: str, labelled: str = "train", *, how: Sequence[str]
    ) -> dict[str, list[str]]:
        lists = ["--train_list", output / folder / f"{labelled}.csv", "--test_list", data / "videos" / "test.csv"]
        start = ["--finetune", output / folder / weights / WEIGHTS] if weights else []
        words = [*FINETUNING, *how, "--nb_classes", len(CLASSES), *lists, "--epochs", epochs, *start]
        return command(VIDEOS, name, *words)

    finetune = partial(learn, how=[TUNE_ALL])

    images = command(
        IMAGES, "images", *PLAIN, "--data_set", "custom", "--data_path", data / "images", "--batch_size", 32,
        "--lr", "1e-3", "--epochs", options.image_epochs, "--color_jitter", 0,
    )  # fmt: skip
    masked, last = {}, {}
    for name, mask_type in masks_of(options).items():
        masked |= command(
            MASKED, name, "--train_list", output / folder / "unlabelled.csv", "--crop", "area", "--num_frames", 8,
            "--teacher", output / folder / "images" / WEIGHTS, "--mask_type", mask_type,
            "--mask_ratio", options.mask_ratio, "--probe_list", data / "videos" / "val.csv", "--eval_freq", 1000,
            "--batch_size", 16, "--lr", "1e-3", "--min_lr", "1e-6", "--epochs", options.masked_epochs,
        )  # fmt: skip
        last |= finetune(f"from_{name}", options.epochs, name)
    for kind in (LINEAR, ATTENTIVE):
        probe = partial(learn, how=[*PROBE, "--probe", kind])
        for features in PROBED:
            last |= probe(f"{kind}_{features}", options.epochs, features)
        last |= probe(f"{kind}_{CONTROL}", options.epochs, CONTROLLED, CONTROL)
    known = [seconds_of(options.output / folder / name) for name in ("scratch", "images", "masked")]
    if all(known):
        longer = options.long_epochs or round(options.epochs * sum(known) / known[0])
        last |= finetune("scratch_long", longer, "")
    first = images | finetune("scratch", options.epochs, "")
    return [first, masked | finetune("from_images", options.epochs, "images"), last]


def seconds_of(folder: Path) -> float:
    """Return the seconds that a finished run trained for; 0 if it has not finished."""
    log = folder / "log.txt"
    if not (folder / "results.json").is_file() or not log.is_file():
        return 0.0
    return sum(json.loads(line)["seconds"] for line in log.read_text().splitlines())


def masks_of(options: argparse.Namespace) -> dict[str, str]:
    """Return the mask of each pretraining by the name of its folder."""
    others = [mask for mask in options.compare_masks if mask != options.mask_type]
    return {"masked": options.mask_type} | {f"masked_{mask}": mask for mask in others}


def document(options: argparse.Namespace, command: str) -> str:
    """Return the tables: mean and standard deviation over the seeds that have finished, and what each seed gave."""
    parts = [
        f"Written by `{command}` on {machine()}.",
        f"Top-1 in percent on {DATA['test']} videos after training on {options.per_class} labelled ones of each of "
        f"{len(CLASSES)} motions; chance is {100 / len(CLASSES):.1f}.",
        table(["start", "top-1", "each seed", "epochs", "seconds of all trainings"], _fine_tuned(options)),
        table(["probe of", *(f"{kind}{part}" for kind in (LINEAR, ATTENTIVE) for part in ("", ", each seed"))],
              _probed(options)),
        "Nearest neighbours of the pretrained students on the validation videos, and the fine-tuning, by mask:",
        table(["mask", "by class token", "each seed", "by patches", "each seed", "fine-tuned", "each seed"],
              _masks(options)),
    ]  # fmt: skip
    digits = ", ".join(f"{results['top1']:.1f}" for results in _finished(options, "images").values())
    return "\n\n".join([*parts, f"Teachers on still digits: {digits} %.\n" if digits else ""])


def _finished(options: argparse.Namespace, name: str) -> dict[Path, dict]:
    """Return the results of a run by the folder of its seed."""
    folders = [options.output / f"seed_{number}" for number in options.seeds]
    found = {folder: read_results(folder / name) for folder in folders}
    return {folder: results for folder, results in found.items() if results is not None}


def _top1(options: argparse.Namespace, name: str) -> tuple[str, str]:
    return over_seeds([results["top1"] for results in _finished(options, name).values()])


def _fine_tuned(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    before = {"from_images": ("images",), "from_masked": ("images", "masked")}
    for arm, words in ARMS.items():
        folders = list(_finished(options, arm))
        if folders:
            seconds = [sum(seconds_of(folder / name) for name in (arm, *before.get(arm, ()))) for folder in folders]
            epochs = sorted({len((folder / arm / "log.txt").read_text().splitlines()) for folder in folders})
            yield words, *_top1(options, arm), ", ".join(map(str, epochs)), f"{statistics.mean(seconds):.0f}"


def _probed(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    for features, words in (PROBED | {CONTROL: f"control: {PROBED[CONTROLLED]}, shuffled labels"}).items():
        cells = [cell for kind in (LINEAR, ATTENTIVE) for cell in _top1(options, f"{kind}_{features}")]
        if any(cells):
            yield words, *cells


def _masks(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    for name, mask_type in masks_of(options).items():
        figures = [results["figures"] for results in _finished(options, name).values()]
        neighbours = [cell for key in ("knn", "knn_patches") for cell in over_seeds([row[key] for row in figures])]
        if figures:
            yield mask_type, *neighbours, *_top1(options, f"from_{name}")


if __name__ == "__main__":
    raise SystemExit(main())
