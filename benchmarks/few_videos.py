"""Compare a recipe for few videos with baselines without a network, and with chance.

    python -m benchmarks.few_videos --data_path LISTS --data_root VIDEOS --per_class 20 5 --seeds 0 1 2
    python -m benchmarks.few_videos --recipe custom/hybrid ...

Disjoint sets of classes are drawn from the lists, with --per_class training videos of each class; all test videos of
these classes are tested. On the same videos, the recipe is compared with the floor (video_floor.py), a
k-nearest-neighbour classifier and a linear probe on features of the backbone or the stem that it starts from, the
recipe from random weights (if it names some), and, as a control, the recipe with shuffled labels, which must stay at
chance. Finished runs are not repeated.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from benchmarks.documents import mean_and_spread, write_and_print
from benchmarks.label_control import shuffle_labels
from benchmarks.run_queue import command_line, exit_status, machine, read_results, run_missing
from benchmarks.video_floor import read_train_and_test, regress, video_floor
from common.files import atomic_write, write_json
from common.flag_parser import FlagParser
from common.flag_types import positive_int, seed
from common.frame_size import as_pair
from datasets.annotations import read_list
from datasets.arguments import DataSettings
from datasets.list_writing import format_list
from datasets.lists import find_list_of
from datasets.transforms import finish
from engines.recipe import load_recipe
from models.arguments import ModelSettings
from models.build import build_model
from models.checkpoint import load_checkpoint
from models.describe import describe_checkpoint
from models.image_stem import ImageStem

SCRIPT = "run_class_finetuning.py"
NEIGHBOURS = 5
SCRATCH = "from random weights"
VARIANTS = {"recipe": [], SCRATCH: ["--finetune", ""], "shuffled labels": []}


@dataclass(frozen=True)
class Task:
    """A set of classes and a draw of training videos.

    Attributes:
        classes: Labels in the given lists.
        per_class: Maximum number of training videos per class.
        draw: Seed of the draw and of the run.
        number: Number of the set of classes.
    """

    classes: tuple[int, ...]
    per_class: int
    draw: int
    number: int

    @property
    def name(self) -> str:
        """Name of the task's folder in --output."""
        return f"set{self.number}_{self.per_class}_videos_seed{self.draw}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the table; return 1 if a run failed."""
    options, passed_on = parse_arguments(arguments)
    data = DataSettings(data_path=options.data_path, data_root=options.data_root)
    tasks = plan(number_of_labels(data), options)
    failed = []
    for task in tasks:
        check_references(options.output / task.name, options)
    if not options.table_only:
        for task in tasks:
            write_task(task, data, options.output / task.name)
        failed = run_missing(_commands(tasks, options, passed_on), options.output, options.jobs)
        for task in tasks:
            write_references(options.output / task.name, options)
    command = command_line("benchmarks.few_videos", arguments)
    text = document(tasks, options, command)
    write_and_print(options.document, text)
    return exit_status(failed, options.output)


def parse_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line into options and the flags that are passed to the runs."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="custom/small", help="(default: %(default)s)")
    parser.add_argument("--stem_weights", type=Path, metavar="FILE", help="as in training, for a recipe with a stem")
    parser.add_argument("--data_path", required=True, help="folder with train.csv, and test.csv or val.csv to test on")
    parser.add_argument("--data_root", default="", help="folder to which the paths in the lists are relative")
    parser.add_argument("--classes", type=positive_int, default=6, help="classes per set (default: 6)")
    parser.add_argument("--sets", type=positive_int, default=2, help="disjoint sets of classes (default: 2)")
    parser.add_argument(
        "--per_class", type=positive_int, nargs="+", default=[20, 5], help="training videos per class (default: 20 5)"
    )
    parser.add_argument(
        "--seeds", type=seed, nargs="+", default=[0, 1, 2], help="seeds of videos and runs (default: 0 1 2)"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="(default: all that the recipe has)")
    parser.add_argument("--output", type=Path, help="folder (default: outputs/few_videos/RECIPE)")
    parser.add_argument("--document", type=Path, help="table (default: table.md in --output)")
    parser.add_argument("--jobs", type=positive_int, default=1, help="parallel runs (default: 1)")
    parser.add_argument("--table_only", action="store_true", help="run nothing; write the table of existing results")
    options, passed_on = parser.parse_known_args(arguments)
    options.output = options.output or Path("outputs/few_videos") / options.recipe.replace("/", "_")
    options.document = options.document or options.output / "table.md"
    try:
        recipe = load_recipe(options.recipe).flags
    except ValueError as error:
        parser.error(str(error))
    weights = recipe.get("finetune")
    if not (weights or recipe.get("stem")):
        parser.error(
            f"--recipe {options.recipe} has neither weights nor a stem, whose features the table compares with"
        )
    known = [name for name in VARIANTS if name != SCRATCH or weights]
    options.variants = options.variants or known
    if unknown := set(options.variants) - set(known):
        parser.error(f"--variants {unknown.pop()!r}: {options.recipe} names no weights to leave out")
    return options, passed_on


def number_of_labels(data: DataSettings) -> int:
    """Count the classes of the training list."""
    records, _ = read_list(find_list_of("train", data), data_root=data.data_root)
    return 1 + max(record.target for record in records)


def plan(classes: int, options: argparse.Namespace) -> list[Task]:
    """List the tasks, all of one seed before the next, so that partial results are complete for some seeds.

    Raises:
        SystemExit: There are too few classes for disjoint sets.
    """
    if classes < options.classes * options.sets:
        raise SystemExit(f"{options.sets} disjoint sets of {options.classes} classes need more than {classes} classes")
    order = np.random.default_rng(0).permutation(classes)[: options.classes * options.sets]
    sets = [tuple(sorted(part.tolist())) for part in np.split(order, options.sets)]
    return [
        Task(chosen, per_class, draw, number)
        for draw in options.seeds
        for per_class in options.per_class
        for number, chosen in enumerate(sets)
    ]


def write_task(task: Task, data: DataSettings, folder: Path) -> None:
    """Write the lists of a task, with labels from 0, and those of the control to shuffled/.

    Raises:
        SystemExit: The folder has results of other lists, of other classes or data.
    """
    rng = np.random.default_rng((task.draw, task.number, task.per_class))
    rows, kind = {}, None
    for mode in ("train", "test"):
        records, kind = read_list(find_list_of(mode, data), data_root=data.data_root)
        chosen = [record for record in records if record.target in task.classes]
        rows[mode] = [replace(record, target=task.classes.index(record.target)) for record in chosen]
    kept = []
    for label in range(len(task.classes)):
        members = [record for record in rows["train"] if record.target == label]
        kept += [members[i] for i in sorted(rng.permutation(len(members))[: task.per_class])]
    for place, train in ((folder, kept), (folder / "shuffled", shuffle_labels(kept, rng))):
        for mode, some in (("train", train), ("test", rows["test"])):
            written, text = place / f"{mode}.csv", format_list(some, kind)
            if written.is_file() and written.read_text(encoding="utf-8") != text:
                raise SystemExit(f"{written} is of other --classes, --sets or data; choose another --output")
            with atomic_write(written, "w") as file:
                file.write(text)


def _commands(tasks: Sequence[Task], options: argparse.Namespace, passed_on: list[str]) -> dict[str, list[str]]:
    commands = {}
    weights = ["--stem_weights", str(options.stem_weights.resolve())] if options.stem_weights else []
    for task in tasks:
        for variant in options.variants:
            folder = options.output / task.name
            lists = folder / "shuffled" if variant == "shuffled labels" else folder
            name = run_name(task, variant)
            commands[name] = [
                sys.executable, SCRIPT, "--recipe", options.recipe, *weights, *VARIANTS[variant],
                "--data_path", str(lists.resolve()),
                "--seed", str(task.draw), "--disable_eval_during_finetuning",
                "--output_dir", str((options.output / name).resolve()), *passed_on,
            ]  # fmt: skip
    return commands


def run_name(task: Task, variant: str) -> str:
    """Return the name of a run's folder in --output."""
    return f"{task.name}/{variant.replace(' ', '_')}"


def check_references(folder: Path, options: argparse.Namespace) -> None:
    """Raise a SystemExit if the accuracies in references.json are those of another recipe or stem."""
    target = folder / "references.json"
    if target.is_file() and json.loads(target.read_text()).get("of") != _compared(options):
        raise SystemExit(f"{target} is of another --recipe or --stem_weights; choose another --output")


def _compared(options: argparse.Namespace) -> list[str]:
    return [options.recipe, str(options.stem_weights or "")]


def write_references(folder: Path, options: argparse.Namespace) -> None:
    """Write the accuracies of floor, neighbours and probe on a task to references.json, unless it exists."""
    target = folder / "references.json"
    if target.is_file():
        return
    recipe = load_recipe(options.recipe).flags
    data = DataSettings(
        data_path=str(folder), sampling="sparse", num_frames=recipe["num_frames"], input_size=recipe["input_size"],
        short_side_size=recipe["input_size"], test_num_segment=1, num_workers=0, pin_mem=False,
    )  # fmt: skip
    (clips, labels), (test_clips, test_labels) = read_train_and_test(data)
    scores = video_floor(clips, labels, test_clips, test_labels)
    if recipe.get("stem"):
        stem = ImageStem(recipe["stem"], recipe["patch_size"], as_pair(recipe["input_size"]))
        stem.load(options.stem_weights or "")
        features, test_features = (stem_features(stem, some) for some in (clips, test_clips))
    else:
        features, test_features = (frame_features(recipe["finetune"], some) for some in (clips, test_clips))
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(labels)), metric="cosine", weights="distance")
    for name, predictions in (
        ("nearest neighbours", neighbours.fit(features, labels).predict(test_features)),
        ("linear probe", regress(features, labels, test_features)),
    ):
        scores[name] = 100 * float(np.mean(predictions == test_labels))
    write_json(target, {"of": _compared(options), "scores": scores})


@torch.no_grad()
def frame_features(weights: str, clips: Tensor) -> np.ndarray:
    """Compute features of an image backbone, averaged over frames and views.

    Args:
        weights: Checkpoint of an image model.
        clips: uint8 (videos, views, C, T, H, W).

    Returns:
        (videos, width) float32.
    """
    facts = describe_checkpoint(weights)
    model = build_model(ModelSettings(facts.model or facts.config["name"], facts.network), facts.num_classes).eval()
    load_checkpoint(model, weights)
    features = []
    for video in clips:
        frames = finish(video).transpose(1, 2).flatten(0, 1)  # (views T, C, H, W)
        features.append(model.forward_features(frames.unsqueeze(2)).mean(0))
    return torch.stack(features).numpy()


def stem_features(stem: ImageStem, clips: Tensor) -> np.ndarray:
    """Compute the mean of the maps of a stem over frames, places and views, (videos, channels) float32.

    Args:
        stem: With trained weights.
        clips: uint8 (videos, views, C, T, H, W).
    """
    return torch.stack([stem(finish(video)).mean((0, 2, 3, 4)) for video in clips]).numpy()


def document(tasks: Sequence[Task], options: argparse.Namespace, command: str) -> str:
    """Return the tables: for each number of training videos, the mean accuracy of each method over sets and seeds."""
    parts = [
        f"### Few videos with {options.recipe}\n",
        f"Written by `{command}` on {machine()}.\nTop-1 in percent: mean and standard deviation over tasks (sets of "
        "classes x seeds). The floor is the regression on both.\n",
    ]
    for per_class in options.per_class:
        scores = [score_of(task, options) for task in tasks if task.per_class == per_class]
        parts += [f"{per_class} training videos per class, {options.classes} classes:\n", table(scores)]
    return "\n".join(parts)


def score_of(task: Task, options: argparse.Namespace) -> dict[str, float]:
    """Return the existing accuracies of a task."""
    folder = options.output / task.name
    references = folder / "references.json"
    scores = json.loads(references.read_text())["scores"] if references.is_file() else {}
    for variant in VARIANTS:
        results = read_results(options.output / run_name(task, variant))
        if results is not None:
            scores[variant] = results["top1"]
    return scores


def table(scores: Sequence[dict[str, float]]) -> str:
    """Return the table of the methods, with the number of tasks in which each is better than the floor."""
    lines = ["| method | top-1 | tasks | above the floor in |", "| --- | ---: | ---: | ---: |"]
    for method in dict.fromkeys(method for score in scores for method in score):
        values = [score[method] for score in scores if method in score]
        pairs = [(score[method], score["both"]) for score in scores if method in score and "both" in score]
        above = f"{sum(top1 > floor for top1, floor in pairs)} of {len(pairs)}"
        lines.append(f"| {method} | {mean_and_spread(values)} | {len(values)} | {above} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    raise SystemExit(main())
