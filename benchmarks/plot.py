"""Plot time and memory against the number of frames from the figures of benchmarks.model.

python -m benchmarks.model frames memory --json docs/performance.json
python -m benchmarks.plot docs/performance.json docs/performance.png
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes

from common.flag_parser import FlagParser

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = {"frames": "one forward pass, seconds", "memory": "peak memory above idle, MB"}
UNITS = {"frames": 1e-3, "memory": 1.0}  # factor of the figures


def draw(axes: Axes, rows: dict[str, dict[str, float]], factor: float, label: str) -> None:
    """Draw one panel: one line per model over the number of frames, both axes logarithmic."""
    for name, row in rows.items():
        frames = [int(column.split()[0]) for column in row]
        values = [factor * value for value in row.values()]
        axes.plot(frames, values, "o-" if name.startswith("VideoMamba") else "s--", label=name, markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(frames, [str(n) for n in frames])
    axes.set_xlabel("frames of 224 x 224")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3, which="both")


def main() -> int:
    """Read the figures and write the plot, in the format given by the file's suffix."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", type=Path, help="JSON file of benchmarks.model with sections frames and memory")
    parser.add_argument("picture", type=Path, help="file to write")
    arguments = parser.parse_args()
    found = json.loads(arguments.figures.read_text())
    missing = [section for section in PANELS if section not in found]
    if missing:
        raise SystemExit(
            f"{arguments.figures} has no section {', '.join(missing)}: "
            f"run python -m benchmarks.model {' '.join(missing)} --json {arguments.figures}"
        )
    figure, panels = plt.subplots(1, len(PANELS), figsize=(9, 3.6), layout="constrained")
    for axes, (section, label) in zip(panels, PANELS.items(), strict=True):
        draw(axes, found[section]["rows"], UNITS[section], label)
    panels[0].legend(fontsize=7)
    figure.savefig(arguments.picture, dpi=150)
    return 0


if __name__ == "__main__":
    sys.exit(main())
