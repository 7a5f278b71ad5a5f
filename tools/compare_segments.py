"""Score predicted segments of videos: `python -m tools.compare_segments TRUTH.csv PREDICTED.csv`.

Both are lists of segments (docs/data.md), as run_inference.py --segments writes them. Prints the segmental F1 at
overlaps of 10, 25 and 50 %, the edit score and the frame accuracy (MoF), as defined in `reports.segment_scores`. A
video without predicted segments counts as missed; predictions for other videos are named and left out.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.files import write_json
from common.flag_parser import FlagParser
from common.flag_types import non_negative_int
from common.terminal import escape_output
from datasets.annotations import EmptyListError
from datasets.labelled_segments import SegmentList, read_segments
from inference.output_files import check_writable
from reports.segment_scores import SegmentError, SegmentScores, score_segments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    escape_output()
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=Path, metavar="TRUTH", help="list of the labelled segments")
    parser.add_argument("predicted", type=Path, metavar="PREDICTED", help="list of the predicted segments")
    parser.add_argument("--data_root", default="", metavar="DIR", help="folder that paths in lists are relative to")
    parser.add_argument("--background", type=non_negative_int, metavar="LABEL", help="label that is no segment")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the scores to this file")
    options = parser.parse_args(arguments)
    try:
        if options.json:
            check_writable("--json", options.json)
        truth = read_segments(options.truth, data_root=options.data_root)
        try:
            predicted = read_segments(options.predicted, data_root=options.data_root)
        except EmptyListError:  # all segments are missed
            predicted = SegmentList({}, truth.unit)
        if truth.unit != predicted.unit:
            raise SegmentError(f"{options.truth} is in {truth.unit}, {options.predicted} in {predicted.unit}")
        if predicted.videos and not truth.videos.keys() & predicted.videos.keys():
            raise SegmentError(
                f"{options.truth} and {options.predicted} have no video in common: {next(iter(truth.videos))} and "
                f"{next(iter(predicted.videos))}, for example (--data_root completes relative paths)"
            )
        scores = score_segments(truth.videos, predicted.videos, background=options.background)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for path in predicted.videos.keys() - truth.videos.keys():
        print(f"left out, because {options.truth} has no segments of it: {path}", file=sys.stderr)
    print(describe(scores))
    if options.json:
        write_json(options.json, vars(scores))
    return 0


def describe(scores: SegmentScores) -> str:
    """Format the scores as a table."""
    rows = [
        *((f"F1@{round(100 * overlap)}", value) for overlap, value in scores.f1.items()),
        ("edit score", scores.edit),
        ("frame accuracy (MoF)", scores.accuracy),
    ]
    counts = f"{scores.videos} videos, {scores.true} true and {scores.predicted} predicted segments"
    return "\n".join([counts, *(f"{name:<20} {value:6.2f} %" for name, value in rows)])


if __name__ == "__main__":
    raise SystemExit(main())
