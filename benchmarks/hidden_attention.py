"""Plot how the residual and the mask change the hidden attention of a trained model, its diagonal and its decay.

    python -m benchmarks.hidden_attention CHECKPOINT VIDEO... --output DIR

The two switches are turned off and on with the same weights and clips. hidden_attention.png shows the summed attention
and its decay with distance, hidden_attention.json has the numbers, averaged over channels, layers and videos.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor
from tqdm import tqdm

from common.files import write_json
from common.flag_parser import FlagParser
from common.terminal import escape_output
from datasets.clip_dataset import read_clips
from datasets.readers import UnreadableVideoError
from explain.influence import by_distance, influence
from explain.scans import scans_of_model
from inference.defaults import QUICK
from inference.predictor import Predictor, load_predictor

SWITCHES = {
    "neither": dict(elemental_residual=False, masked=False),
    "mask": dict(elemental_residual=False, masked=True),
    "residual": dict(elemental_residual=True, masked=False),
    "both": dict(elemental_residual=True, masked=True),
}
TITLES = {"neither": "neither, as VideoMamba", "both": "residual and mask, VideoMambaPro"}
REPORTED_DISTANCES = (1, 4, 16, 64)


def measure(predictor: Predictor, videos: Sequence[str]) -> dict[str, Tensor]:
    """Compute the summed hidden attention (length, length) per setting, averaged over layers and videos."""
    totals = dict.fromkeys(SWITCHES, 0.0)
    for video in tqdm(videos, unit="video"):
        clips = read_clips(predictor.open(video), predictor.plan, np.random.default_rng(0))
        layers = scans_of_model(predictor.model, clips.to(predictor.device))
        for name, switches in SWITCHES.items():
            for scans in layers:
                totals[name] = totals[name] + influence(scans, **switches).mean(0) / (len(layers) * len(videos))
    return {name: matrix.cpu() for name, matrix in totals.items()}


def summary(matrix: Tensor) -> dict[str, float]:
    """Summarise a matrix: diagonal, its share of the row sums, influence at some distances and of the ends."""
    decay, length = by_distance(matrix), len(matrix)
    ends = (matrix[length // 2, 0] + matrix[length // 2, -1]) / 2
    return {
        "diagonal": decay[0].item(),
        "diagonal_share": (matrix.diagonal().sum() / matrix.sum()).item(),
        **{f"distance_{k}": decay[k].item() for k in REPORTED_DISTANCES if k < length},
        "ends_from_the_middle": ends.item(),
    }


def draw(matrices: dict[str, Tensor], picture: Path) -> None:
    """Plot the attention without and with both changes, and the decay of all four settings."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), constrained_layout=True)
    strongest = matrices["neither"].max().item()
    norm = matplotlib.colors.LogNorm(strongest / 1e4, strongest)
    for panel, name in zip(axes, TITLES, strict=False):
        image = panel.imshow(matrices[name].numpy(), norm=norm, cmap="magma")
        panel.set(title=TITLES[name], xlabel="token that is read", ylabel="token that reads")
    figure.colorbar(image, ax=axes[:2], label="mean |influence|")
    for name, matrix in matrices.items():
        axes[2].plot(by_distance(matrix).numpy(), label=name)
    axes[2].set(title="decay", xlabel="distance (tokens)", ylabel="mean |influence|", yscale="log")
    axes[2].set_xscale("symlog", linthresh=1)
    axes[2].set_xlim(0, len(matrices["neither"]))
    axes[2].legend(title="switched on")
    figure.savefig(picture, dpi=80)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    escape_output()
    parser = FlagParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a trained model")
    parser.add_argument("videos", nargs="+", help="videos, of which one clip in the middle is read")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(arguments)
    try:
        matrices = measure(load_predictor(options.checkpoint, **QUICK), options.videos)
    except (FileNotFoundError, ValueError, UnreadableVideoError) as error:
        print(error, file=sys.stderr)
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    numbers = {name: summary(matrix) for name, matrix in matrices.items()}
    write_json(options.output / "hidden_attention.json", {"videos": len(options.videos), "switched_on": numbers})
    draw(matrices, options.output / "hidden_attention.png")
    for name, row in numbers.items():
        print(f"{name:<9}", "  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
