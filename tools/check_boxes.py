"""Check the annotations, boxes and movies of a dataset for action detection.

    python -m tools.check_data boxes --data_path annotations --data_root /data/movies

The flags are those of a run. Faults stop a run or make it lose seconds: invalid boxes or unknown classes, seconds
without frames, movies or folders that are missing, broken or not 15 minutes long (AVA's), detected persons of other
videos. Notes: classes without boxes, repeated rows, videos that are both trained and evaluated, and the fraction of
persons that the detected boxes cover.
"""

import argparse
import sys
from collections.abc import Sequence

from common.flag_parser import FlagParser
from common.flag_types import non_negative_int, positive
from common.settings import add_options, from_flags
from datasets.detection.lists import DetectionListSettings
from datasets.preparation.box_check import Findings, check_annotations, check_videos

MOST_TOLD = 30


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = FlagParser(
        prog="check_data boxes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, DetectionListSettings)
    parser.add_argument("--workers", type=non_negative_int, default=0, help="processes (default: one per processor)")
    parser.add_argument(
        "--time_limit",
        type=positive,
        default=120.0,
        metavar="SECONDS",
        help="time limit per movie (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def check_boxes(arguments: Sequence[str]) -> int:
    """Run the command line; return 1 if there are faults."""
    options = parse_arguments(arguments)
    settings = from_flags(DetectionListSettings, options)
    findings = Findings()
    splits = check_annotations(settings, findings)
    videos = check_videos(splits, settings, findings, workers=options.workers, time_limit=options.time_limit)
    _tell("note: ", findings.notes, sys.stdout)
    _tell("", findings.faults, sys.stderr)
    for annotations in splits.values():
        persons = sum(len(persons.boxes) for persons in annotations.seconds.values())
        print(
            f"{annotations.file}: {persons} persons in {len(annotations.seconds)} seconds of "
            f"{len(annotations.first_lines)} videos"
        )
    print(f"{videos} movies or frame folders checked: {len(findings.faults)} faults, {len(findings.notes)} notes")
    return 1 if findings.faults else 0


def _tell(mark: str, lines: Sequence[str], stream) -> None:
    for line in lines[:MOST_TOLD]:
        print(f"{mark}{line}", file=stream)
    if len(lines) > MOST_TOLD:
        print(f"{mark}and {len(lines) - MOST_TOLD} more", file=stream)
