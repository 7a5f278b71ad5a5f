"""Compare the ONNX files of a model with the checkpoint they were exported from: time of a forward pass on the CPU.

    python -m benchmarks.exported [CHECKPOINT] [--threads 2] [--batch 1] [--no_plain] [--json out.json]

Without CHECKPOINT: VideoMambaPro-Tiny over 8 x 224 x 224 with random weights. The files are exported to a temporary
folder and must agree with the checkpoint before they are timed. All take turns (A B A B) in one process, with equal
numbers of threads; medians are reported. The plain file takes seconds per clip; --no_plain leaves it out.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import peers
from benchmarks.model import check_equal, machine, print_table
from benchmarks.timing import WALL_TIME, Call, interleaved_medians
from common.files import write_json
from common.flag_parser import FlagParser
from common.flag_types import positive_int
from common.memory import keep_freed_memory
from inference import load_predictor
from mamba.mamba_ssm.ops.selective_scan.onnx_library import FILE_NAME
from models.checkpoint_file import CONFIG_KEY
from tools import export_file
from tools.comparison import random_clips

ROUNDS = 9
REST = 0.2
"""Seconds before a call, in which the threads of the other library stop spinning, each on a core, for more work."""


def measure(checkpoint: Path, folder: Path, *, threads: int, batch: int, plain: bool) -> dict[str, dict[str, float]]:
    """Measure the milliseconds of a forward pass of the checkpoint and of the files exported from it."""
    model = load_predictor(checkpoint, device="cpu").model
    clips = random_clips(model, batch)
    candidates = {"checkpoint": lambda: model(clips)}
    files = {"--onnx_kernel": True} | ({"plain": False} if plain else {})
    for name, onnx_kernel in files.items():
        file = folder / f"{name.strip('-')}.onnx"
        export_file.export(checkpoint, file, onnx_kernel=onnx_kernel)
        exported = export_file.load_onnx(file, folder / FILE_NAME if onnx_kernel else None, threads)
        candidates[name] = lambda exported=exported: exported(clips)
    with torch.no_grad():
        expected = model(clips)
        for name, call in candidates.items():
            check_equal(name, call(), expected)
        seconds = interleaved_medians(candidates, ROUNDS, _rested)
    return {
        name: {"forward, ms": 1e3 * value, "times the checkpoint": value / seconds["checkpoint"]}
        for name, value in seconds.items()
    }


def _rested(call: Call) -> list[float]:
    time.sleep(REST)
    return WALL_TIME(call)


def save_tiny(path: Path) -> Path:
    """Save VideoMambaPro-Tiny with random weights."""
    model = peers.build(peers.TINY, 8).model
    torch.save({"model": model.state_dict(), CONFIG_KEY: model.config.values(), "args": {}}, path)
    return path


def main() -> int:
    """Measure and print a table."""
    parser = FlagParser(
        prog="benchmarks.exported", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, nargs="?", help="as for tools.export (default: a random Tiny)")
    parser.add_argument("--threads", type=positive_int, default=2, help="CPU threads of each candidate (default: 2)")
    parser.add_argument("--batch", type=positive_int, default=1, help="clips of a forward pass (default: 1)")
    parser.add_argument("--no_plain", action="store_true", help="leave out the file of standard operators")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args()
    keep_freed_memory()  # as training does
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = arguments.checkpoint or save_tiny(folder / "tiny.pth")
        rows = measure(
            checkpoint, folder, threads=arguments.threads, batch=arguments.batch, plain=not arguments.no_plain
        )
    print_table("exported", rows)
    if arguments.json:
        write_json(arguments.json, {"machine": machine("cpu"), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
