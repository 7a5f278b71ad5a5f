"""Say what the lists of `tools.make_lists` contain, and how to train on them."""

import argparse
import shlex
from collections.abc import Iterator, Sequence

import numpy as np

from datasets.label_names import LABELS
from datasets.labels import classes_of, task_of
from datasets.preparation.list_splits import Lists
from datasets.preparation.table_source import TABLE
from datasets.presets import PRESETS

MAX_PRINTED = 10

# Recipe and number of classes of the data sets that have one.
RECIPES = {
    "kinetics": ("k400/tiny_f16_res224", 400),
    "ssv2": ("ssv2/tiny_f16_res224", 174),
    "ucf101": ("ucf101/tiny_f16_res224", 101),
    "hmdb51": ("hmdb51/tiny_f16_res224", 51),
    "jhmdb": ("jhmdb/nano_f8_res96", 21),
    "breakfast": ("breakfast/tiny_f32_res224", 10),
    "coin": ("coin/tiny_f32_res224", 180),
}
OWN_VIDEOS = "custom/hybrid"


def describe(lists: Lists, options: argparse.Namespace) -> Iterator[str]:
    """Yield lines on what the lists contain, what is missing or passed over, and how to train on them."""
    names, output = lists.source.label_names, options.output
    labels = {split: [c for clip in clips for c in classes_of(clip.label)] for split, clips in lists.splits.items()}
    of_numbers = task_of(lists.splits["train"][0].label) == "regression"
    for split, clips in lists.splits.items():
        if of_numbers:
            yield f"{split}: {len(clips)} clips"
            continue
        counts = np.bincount(np.array(labels[split], int), minlength=len(names))
        yield (
            f"{split}: {len(clips)} clips, {np.count_nonzero(counts)} of {len(names)} classes, "
            f"{min(counts)} to {max(counts)} clips each"
        )
    unused = set(range(len(names))) - set(labels["train"])
    for label in () if of_numbers else sorted(unused):
        yield f'warning: class {label}, "{names[label]}", has no training clip'
    yield from map(printable, lists.source.notes)
    yield from first_of("passed over", lists.passed_over, "passed over in total")
    yield from first_of("missing", lists.missing, f"missing in total: {output / 'missing.txt'}")
    yield f"train with: {shlex.join(training_command(lists, options))}"


def training_command(lists: Lists, options: argparse.Namespace) -> list[str]:
    """Return the command line that trains on the lists, by the recipe of the data set if it has all classes."""
    if lists.kind == "image":
        words = ["python", "run_pretrain_imagenet.py", "--model", "videomambapro_tiny"]
        if len(lists.source.label_names) != PRESETS["ImageNet"].num_classes:
            words += ["--data_set", "custom"]
    else:
        recipe, classes = RECIPES.get(options.form, (OWN_VIDEOS, 0))
        if options.form == "lvu":
            recipe, classes = f"lvu/{options.task}_tiny_f32_res224", len(lists.source.label_names)
        if classes != len(lists.source.label_names):
            recipe = OWN_VIDEOS
        words = ["python", "run_class_finetuning.py", "--recipe", recipe]
    if options.form == TABLE:
        words += ["--task", options.task]
    words += ["--data_path", str(options.output), "--data_root", str(options.root)]
    words += ["--label_names", str(options.output / LABELS), *lists.frame_flags]
    return [*words, "--output_dir", f"outputs/{options.root.resolve().name}"]


def first_of(what: str, lines: Sequence[str], total: str) -> Iterator[str]:
    """Yield the first few lines, and how many there are."""
    for line in lines[:MAX_PRINTED]:
        yield f"{what}: {printable(line)}"
    if lines:
        yield f"{len(lines)} {total}"


def printable(line: str) -> str:
    """Escape a line if it contains control characters or bytes that are not text."""
    return line if line.isprintable() else ascii(line)[1:-1]
