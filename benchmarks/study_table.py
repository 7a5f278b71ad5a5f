"""Tables of a study from the results of its runs: accuracies, McNemar's tests, classes that need motion."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.documents import mean_and_spread
from benchmarks.run_queue import machine
from common.files import atomic_write
from reports.accuracy import Accuracy
from reports.comparison import holm, mcnemar


@dataclass(frozen=True)
class Variant:
    """The predictions of one variant.

    Attributes:
        name: Name of the variant.
        labels: Label of each test, by split and line of the test list.
        right: Whether each test was classified correctly, by seed, and by split and line; only seeds with all splits.
        extra: Other figures by name, averaged over the runs.
    """

    name: str
    labels: dict[tuple[int, int], int]
    right: dict[int, dict[tuple[int, int], bool]]
    extra: dict[str, float]

    @property
    def accuracies(self) -> list[float]:
        """Accuracy over all splits in percent, one per seed."""
        return [100 * statistics.mean(right.values()) for right in self.right.values()]


def run_name(variant: str, split: int, number: int) -> str:
    """Return the name of a run's folder in --output."""
    return f"{folder_name(variant)}/split{split + 1}_seed{number}"


def folder_name(variant: str) -> str:
    """Return a folder name for a variant."""
    return "_".join("".join(c if c.isalnum() else " " for c in variant).split())


def read_variant(name: str, output: Path, seeds: Sequence[int], splits: int) -> Variant | None:
    """Read the results of a variant; return None if no seed has results for all splits.

    Args:
        name: Name of the variant.
        output: Folder of the runs.
        seeds: Seeds of the runs.
        splits: Number of splits.
    """
    labels, right, extra = {}, {}, {}
    for number in seeds:
        files = [output / run_name(name, split, number) / "results.json" for split in range(splits)]
        if not all(file.is_file() for file in files):
            continue
        right[number] = {}
        for split, file in enumerate(files):
            results = json.loads(file.read_text(encoding="utf-8"))
            for row in results["predictions"]:
                labels[split, row["line"]] = row["label"]
                right[number][split, row["line"]] = row["prediction"] == row["label"]
            for figure in ("rate", "parameters", "clips_per_second", "clips", "memory_gib"):
                if figure in results:
                    extra.setdefault(figure, []).append(results[figure])
    means = {figure: statistics.mean(values) for figure, values in extra.items()}
    return Variant(name, labels, right, means) if right else None


def shared_seed(first: Variant, second: Variant) -> int | None:
    """Return the first seed of which both variants have results; None if there is none."""
    return next((seed for seed in first.right if seed in second.right), None)


def discordant(first: Variant, second: Variant, label: int | None = None) -> tuple[int, int] | None:
    """Count the videos that only the first, and only the second variant classified correctly.

    Only the first shared seed counts, because the same video with another seed is not an independent trial.

    Args:
        first: First variant.
        second: Second variant.
        label: Label of the videos to count; None for all.

    Returns:
        the two numbers; None without a shared seed.
    """
    number = shared_seed(first, second)
    if number is None:
        return None
    a, b = first.right[number], second.right[number]
    shared = [key for key in a if key in b and label in (None, first.labels[key])]
    return sum(a[key] and not b[key] for key in shared), sum(b[key] and not a[key] for key in shared)


def write_study(
    path: Path,
    study: str,
    variants: Sequence[Variant],
    command: str,
    *,
    pairs: Sequence[tuple[str, str]] = (),
    names: Sequence[str] = (),
) -> str:
    """Write the document of a study and return it.

    Args:
        path: File to write.
        study: Name of the study.
        variants: Variants with results, the reference first.
        command: Command that created the results.
        pairs: Pairs of variants to compare by class, the first without and the second with motion.
        names: Class names; empty for their numbers.
    """
    by_name = {variant.name: variant for variant in variants}
    parts = [f"### Study: {study}\n", f"Written by `{command}` on {machine()}.\n", _accuracies(variants)]
    for static, moving in pairs:
        if static in by_name and moving in by_name:
            parts += [f"#### Classes that need motion: {moving} against {static}\n",
                      _classes(by_name[static], by_name[moving], names)]  # fmt: skip
    text = "\n".join(parts)
    with atomic_write(path, "w") as file:
        file.write(text)
    return text


def _accuracies(variants: Sequence[Variant]) -> str:
    """Return a row per variant: mean over seeds, interval of the first seed, test against the first variant."""
    if not variants:
        return "No variant has been run on all splits.\n"
    names = list(dict.fromkeys(name for variant in variants for name in variant.extra))
    of_first = " (first seed)" if any(len(variant.right) > 1 for variant in variants) else ""
    head = ["variant", "top-1", f"95 % interval{of_first}", "videos", "seeds",
            f"p against {variants[0].name}{of_first}", *names]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for variant in variants:
        accuracies, first = variant.accuracies, next(iter(variant.right.values()))
        accuracy = Accuracy.of(sum(first.values()), len(first))
        counts = None if variant is variants[0] else discordant(variants[0], variant)
        test = f"{mcnemar(*counts):.2g}" if counts else ""
        cells = [variant.name, mean_and_spread(accuracies), f"{accuracy.low:.1f} to {accuracy.high:.1f}",
                 f"{len(first)}", f"{len(accuracies)}", test,
                 *(f"{variant.extra[name]:.3g}" if name in variant.extra else "" for name in names)]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "p is of McNemar's test, without a correction for the number of variants.", ""])


def _classes(static: Variant, moving: Variant, names: Sequence[str]) -> str:
    """Return a row per class, largest gain by motion first, with Holm's correction for multiple comparisons."""
    number = shared_seed(static, moving)
    if number is None:
        return "They have no seed in common.\n"
    both = static.right[number].keys() & moving.right[number].keys()  # each may have failed to read a video
    rows = []
    for label in sorted({static.labels[key] for key in both}):
        keys = [key for key in both if static.labels[key] == label]
        shares = [100 * float(np.mean([v.right[number][key] for key in keys])) for v in (static, moving)]
        rows.append((label, len(keys), *shares, mcnemar(*(discordant(static, moving, label) or (0, 0)))))
    corrected = holm([row[-1] for row in rows])
    lines = [
        "| class | videos | single frames | video | gain | p (Holm) |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (label, count, still, video, _), p in sorted(
        zip(rows, corrected, strict=True), key=lambda r: r[0][2] - r[0][3]
    ):
        name = names[label] if names else label
        lines.append(f"| {name} | {count} | {still:.1f} | {video:.1f} | {video - still:+.1f} | {p:.2g} |")
    return "\n".join([*lines, ""])
