"""Compute features of videos with a trained model, for retrieval, probes, and temporal detection.

    python -m tools.features CHECKPOINT VIDEO... --output DIR                          one row per video
    python -m tools.features CHECKPOINT LIST --output DIR --views --pool logits        for --teacher_scores
    python -m tools.features CHECKPOINT VIDEO... --output DIR --window 16 --stride 4   one array per video

A VIDEO is a file, a folder of videos or of frames, or a list (.csv, .txt). Without --window, DIR/features.npz contains
`paths` and `features`, averaged over the views of the test, and `lines` and `labels` of a list. With --window,
DIR/NAME.npy has a row for each window, and DIR/features.json the frame rate and the first frames. An interrupted
command continues when it is repeated; with --shard I/N, N processes share the videos, and the command without --shard
then joins their results. docs/features.md describes the files.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from common.files import require_weights
from common.flag_parser import FlagParser
from common.flag_types import positive_int
from common.memory import keep_freed_memory
from common.progress import progress
from common.terminal import escape_output
from inference.arguments import add_computing_arguments, add_reading_arguments, check_lists
from inference.defaults import POOLS
from inference.list_rows import rows_of_list


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this tool."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="published or our own, also without a head"
    )
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video file, folder, or list of paths (.csv, .txt)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the features")
    parser.add_argument("--window", type=positive_int, default=0, help="frames of a window (default: no windows)")
    parser.add_argument(
        "--stride", type=positive_int, default=0, help="frames between windows (default: those of a window)"
    )
    parser.add_argument(
        "--pool",
        choices=POOLS,
        default="class",
        help="class: what the head reads; mean: of all patches; frames: mean of each frame; tokens: all; logits: the "
        "head's outputs (default: %(default)s)",
    )
    parser.add_argument(
        "--views", action="store_true", help="keep the views apart: rows (views, width), not their mean"
    )
    parser.add_argument("--half", action="store_true", help="write float16 (default: float32)")
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="compute only the I-th of N parts of the videos"
    )
    parser.add_argument("--data_root", default="", metavar="DIR", help="folder that paths in lists are relative to")
    add_reading_arguments(parser.add_argument_group("frames and views (default: as in the checkpoint's own test)"))
    add_computing_arguments(parser.add_argument_group("computing"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, or 1 if a video has no features."""
    escape_output()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    parser = get_parser()
    args = parser.parse_args(arguments)
    try:
        _check(args)
        # PyTorch takes seconds to import.
        from inference.from_flags import feature_folder_of_flags

        listed = [] if args.window else rows_of_list(args.videos, args.data_root)
        folder = feature_folder_of_flags(args)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if folder.predictor.device.type == "cpu":
        keep_freed_memory()
    number, shards = args.shard
    chosen = list(folder.arrays)[number - 1 :: shards]
    unfinished = folder.unfinished(chosen)
    if len(unfinished) < len(chosen):
        print(f"{len(chosen) - len(unfinished)} of {len(chosen)} videos are finished already")
    workers = min(args.num_workers, max(0, len(unfinished) - 1))
    failures = {}
    with progress(folder.extract(unfinished, num_workers=workers), desc="videos", total=len(unfinished)) as bar:
        for path, error in bar:
            if error is not None:
                failures[path] = error.reason
                bar.write(f"no features of {path}: {error.reason}", file=sys.stderr)
    if shards > 1:
        print(f"shard {number} of {shards}: {len(chosen) - len(failures)} videos; without --shard, all are joined")
    else:
        print(f"{folder.join(failures, listed)}: {len(chosen) - len(failures)} videos")
    return 1 if failures else 0


def _check(args: argparse.Namespace) -> None:
    """Raise a ValueError for flags that contradict each other, a FileNotFoundError for a missing file."""
    if args.stride and not args.window:
        raise ValueError("--stride is the distance of windows: give --window as well")
    if args.views and args.window:
        raise ValueError("--views keeps the views of whole videos apart, and windows have none: leave one of them out")
    require_weights(args.checkpoint)
    check_lists(args.videos, args.data_root)


def _shard(text: str) -> tuple[int, int]:
    """Parse I/N, counted from 1."""
    number, _, shards = text.partition("/")
    if not (number.isdecimal() and shards.isdecimal() and 1 <= int(number) <= int(shards)):
        raise argparse.ArgumentTypeError(f"must be I/N with I from 1 to N, such as 1/4, not {text}")
    return int(number), int(shards)


if __name__ == "__main__":
    raise SystemExit(main())
