"""Write the figures of `benchmarks.gpu_check` into docs/gpu.md.

    python -m benchmarks.gpu_table [FOLDER] [--write docs/gpu.md]

FOLDER is the output of the check (default: outputs/gpu_check). Without --write, the tables are printed.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks.documents import replace_between, table
from common.flag_parser import FlagParser

MARKERS = "gpu check"


def step_table(found: dict) -> str:
    """Return clips per second, times and memory of whole models."""
    rows = []
    for model, variants in found["models"].items():
        for variant, row in variants.items():
            cells = [f"{row[key]:.4g}" if key in row else "" for key in ("clips/s", "ms", "host ms", "busy ms", "GiB")]
            rows.append([f"{model.title()}, {found['batch']} x {found['frames']} frames", variant, *cells])
    return table(["model", "what", "clips/s", "ms", "host ms", "kernels ms", "GiB"], rows)


def kernel_table(found: dict) -> str:
    """Return microseconds of each kernel beside its limits."""
    rows = []
    for row in found["kernels"]:
        limits = [f"{row[key]:.0f}" if row.get(key) else "" for key in ("bytes us", "exp us")]
        rows.append([row["pass"], row["kernel"], f"{row['us']:.0f}", f"{row['launches']:.0f}", *limits])
    rows += [[name, "failed", "", "", "", ""] for name in found.get("failed", ())]
    return table(["pass", "kernel", "us", "launches", "bytes, us", "exponentials, us"], rows)


def scan_table(found: dict) -> str:
    """Return times and memory of a layer's scan by each backend."""
    columns = ("forward_ms", "training_ms", "peak_mb")
    rows = [[name, *(f"{row[key]:.3f}" for key in columns)] for name, row in found["candidates"].items()]
    return table(["scan of a layer", "forward, ms", "with backward, ms", "peak, MB"], rows)


def report(folder: Path) -> str:
    """Return the tables of all parts whose figures are in the folder.

    Raises:
        SystemExit: There are none.
    """
    sections = []
    for name, title, form in (
        ("steps", "Whole models, bfloat16", step_table),
        ("large_batch", "A large batch", step_table),
        ("compile", "torch.compile", step_table),
        ("scan", "One layer's scan against others, host included", scan_table),
        ("kernels", "Kernels of a layer, without launches", kernel_table),
    ):
        path = folder / f"{name}.json"
        if path.exists():
            found = json.loads(path.read_text())
            where = " ".join(str(found[key]) for key in ("gpu", "device", "sizes") if key in found)
            sections.append(f"**{title}** ({where})\n\n{form(found)}")
    if not sections:
        raise SystemExit(f"{folder} has no figures; run python -m benchmarks.gpu_check on a machine with a GPU")
    return "\n\n".join(sections)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = FlagParser(
        prog="benchmarks.gpu_table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("outputs/gpu_check"))
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the tables in this document")
    arguments = parser.parse_args(argv)
    text = report(arguments.folder)
    if arguments.write is None:
        print(text)
    else:
        replace_between(arguments.write, MARKERS, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
