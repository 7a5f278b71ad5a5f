"""Draws a run: `python -m tools.plot_run OUTPUT_DIR` reads log.txt and results.json there.

Writes training_curve.png (loss and accuracy by epoch) and confusion_matrix.png, and prints top-1 beside chance.
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def plot_training_curve(log_file: Path, picture: Path) -> None:
    """Training loss and validation accuracy by epoch, from a log.txt of one JSON object a line."""
    epochs = [json.loads(line) for line in log_file.read_text().splitlines()]
    figure, (loss, accuracy) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    numbers = [record["epoch"] + 1 for record in epochs]
    loss.plot(numbers, [record["train_loss"] for record in epochs], label="training")
    if "val_loss" in epochs[-1]:
        loss.plot(numbers, [record.get("val_loss") for record in epochs], label="validation")
        accuracy.plot(numbers, [record.get("val_acc1") for record in epochs], label="validation top-1")
    loss.set(xlabel="epoch", ylabel="loss")
    accuracy.set(xlabel="epoch", ylabel="top-1 (%)", ylim=(0, 100))
    loss.legend()
    accuracy.legend()
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def plot_confusion_matrix(counts: np.ndarray, names: list[str], picture: Path) -> None:
    """The confusion matrix (classes, classes), true class by row, in per cent of the row, counts written in."""
    shares = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.0, 0.55 * len(names) + 2)
    figure, axes = plt.subplots(figsize=(side, side), constrained_layout=True)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(names)), yticks=range(len(names)))
    axes.set_xticklabels(names, rotation=45, ha="right")
    axes.set_yticklabels(names)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 50 else "black"
            axes.text(column, row, int(count), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def main() -> None:
    """Reads the run's files and writes its pictures beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--label_names", type=Path, help="a class name a line, in the order of the labels")
    args = parser.parse_args()
    results = json.loads((args.output_dir / "results.json").read_text())
    counts = np.array(results["confusion_matrix"])
    names = args.label_names.read_text().splitlines() if args.label_names else map(str, range(len(counts)))
    plot_training_curve(args.output_dir / "log.txt", args.output_dir / "training_curve.png")
    plot_confusion_matrix(counts, list(names), args.output_dir / "confusion_matrix.png")
    print(
        f"test top-1 {results['top1']:.2f} % (chance {100 / len(counts):.2f} %), "
        f"{results['videos']} videos x {results['views']} views, {len(results['excluded'])} excluded\n"
        f"pictures and numbers: {args.output_dir}"
    )


if __name__ == "__main__":
    main()
