"""Write the document of an ablation: a table of all variants, and the effect of each factor."""

import math
import platform
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.documents import mean_and_spread


class Score(NamedTuple):
    """The result of one run.

    Attributes:
        levels: Levels of the factors, in order.
        seed: Seed of the run.
        top1: Accuracy in percent.
        videos: Number of test videos.
        classes: Number of classes.
        epoch_seconds: Training time per epoch.
    """

    levels: tuple[str, ...]
    seed: int
    top1: float
    videos: int
    classes: int
    epoch_seconds: float


class Effect(NamedTuple):
    """Effect of a factor: mean difference between its first and its second level, its standard error, and pairs."""

    mean: float
    error: float
    pairs: int


def factor_effect(scores: Sequence[Score], factor: int) -> Effect | None:
    """Compare the two levels of a factor over pairs of runs that are otherwise equal, including the seed.

    Differences are averaged within each seed; the standard error is that of the mean over seeds, NaN for one seed.
    Returns None if there are no such pairs.
    """
    levels = list(dict.fromkeys(score.levels[factor] for score in scores))
    if len(levels) < 2:
        return None
    by_rest: dict[tuple, dict[str, float]] = defaultdict(dict)
    for score in scores:
        rest = score.levels[:factor] + score.levels[factor + 1 :]
        by_rest[score.seed, rest][score.levels[factor]] = score.top1
    by_seed = defaultdict(list)
    for (seed, _), values in by_rest.items():
        if len(values) == 2:
            by_seed[seed].append(values[levels[0]] - values[levels[1]])
    if not by_seed:
        return None
    means = [statistics.mean(differences) for differences in by_seed.values()]
    error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return Effect(statistics.mean(means), error, sum(map(len, by_seed.values())))


def write_document(path: Path, scores: Sequence[Score], factors: Sequence[str], command: str, run: str) -> str:
    """Write the Markdown document of an ablation to `path` and return it.

    Args:
        path: File to write.
        scores: Results of the runs.
        factors: Names of the factors, in the order of the levels.
        command: The command that writes the document.
        run: The part of the command shared by all runs.
    """
    text = "\n".join([
        "# Ablation\n",
        _introduction(scores, command, run),
        "## All variants\n",
        _variants(scores, factors),
        "\n## What each factor changes\n",
        "Mean difference between pairs of runs that differ in this factor only and share the seed; `+-` is the",
        "standard error over seeds.\n",
        _effects(scores, factors),
        "",
    ])  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return text


def _introduction(scores: Sequence[Score], command: str, run: str) -> str:
    seeds = sorted({score.seed for score in scores})
    videos, classes = scores[0].videos, scores[0].classes
    return (
        f"Written by `{command}` from {len(scores)} runs with seeds {', '.join(map(str, seeds))}. Each run is\n\n"
        f"    {run}\n\n"
        f"Scores are top-1 in percent on {videos} test videos of {classes} classes (chance {100 / classes:.1f} %; "
        f"sampling error of a single run up to {50 / math.sqrt(videos):.1f}),\n"
        "as mean and standard deviation over seeds. "
        f"Measured on {platform.machine()} with PyTorch {torch.__version__.split('+')[0]}.\n"
    )


def _variants(scores: Sequence[Score], factors: Sequence[str]) -> str:
    """Format one row per variant, the best mean first."""
    groups = defaultdict(list)
    for score in scores:
        groups[score.levels].append(score)
    lines = [f"| {' | '.join(factors)} | top-1 | runs | seconds per epoch |",
             "| " + " | ".join("---" for _ in factors) + " | ---: | ---: | ---: |"]  # fmt: skip
    by_mean = sorted(groups.items(), key=lambda group: -statistics.mean(score.top1 for score in group[1]))
    for levels, group in by_mean:
        values = [score.top1 for score in group]
        seconds = statistics.mean(score.epoch_seconds for score in group)
        lines.append(f"| {' | '.join(levels)} | {mean_and_spread(values)} | {len(values)} | {seconds:.1f} |")
    return "\n".join(lines)


def _effects(scores: Sequence[Score], factors: Sequence[str]) -> str:
    lines = ["| factor | difference in top-1 | pairs |", "| --- | ---: | ---: |"]
    for index, name in enumerate(factors):
        effect = factor_effect(scores, index)
        if effect is None:
            continue
        first, second = list(dict.fromkeys(score.levels[index] for score in scores))
        error = "" if math.isnan(effect.error) else f" +- {effect.error:.1f}"
        lines.append(f"| {name}: {first} against {second} | {effect.mean:+.1f}{error} | {effect.pairs} |")
    return "\n".join(lines)
