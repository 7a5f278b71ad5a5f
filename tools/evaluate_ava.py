"""Evaluate action detections: `python -m tools.evaluate_ava --ground_truth G --detections D --label_map L`.

Print AVA's frame mAP at IoU 0.5 and the average precision of each class. The files may come from any system and any
dataset: annotations and detections in AVA's columns (docs/detection.md), and a label map with the classes to evaluate.
Rows of other classes are ignored. PyTorch is not needed.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence

import numpy as np

from common.flag_parser import FlagParser
from common.flag_types import non_negative_int
from common.terminal import escape_output
from datasets.detection.annotations import (
    ANNOTATION_FORM,
    DETECTION_FORM,
    EXCLUSION_FORM,
    read_action_rows,
    read_detections,
    read_exclusions,
)
from datasets.detection.label_map import LabelMap, read_label_map
from engines.ava_evaluation import BOX, DETECTION, GROUND_TRUTH, IOU_THRESHOLD, frame_map


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    escape_output()
    options = get_parser().parse_args(arguments)
    try:
        label_map = read_label_map(options.label_map)
        excluded = {second for file in options.exclusions for second in read_exclusions(file)}
        truth = np.fromiter(read_action_rows(options.ground_truth), GROUND_TRUTH)
        detections = np.fromiter(read_detections(options.detections), DETECTION)
        _check_common(truth, detections, options)
        mean, ap = frame_map(
            truth, detections, label_map.ids, excluded=excluded, max_rows_per_frame=options.max_rows_per_frame
        )
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    by_name = dict(zip(label_map.names, ap.values(), strict=True))
    if options.json:
        print(json.dumps({"map": mean, "ap": by_name}, ensure_ascii=False))
        return 0
    for file, rows in ((options.ground_truth, truth), (options.detections, detections)):
        print(_describe(file, rows, label_map, excluded))
    width = max(map(len, label_map.names))
    for name, value in by_name.items():
        print(f"{name:{width}}  {'no ground truth' if value is None else f'{100 * value:6.2f}'}")
    evaluated = sum(value is not None for value in by_name.values())
    print(f"mAP at IoU {IOU_THRESHOLD}: {100 * mean:.2f} % over {evaluated} of {len(label_map)} classes")
    return 0


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = FlagParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ground_truth", required=True, metavar="FILE", help=f"rows {ANNOTATION_FORM}")
    parser.add_argument("--detections", required=True, metavar="FILE", help=f"rows {DETECTION_FORM}")
    parser.add_argument("--label_map", required=True, metavar="FILE", help="names and ids of the classes to evaluate")
    parser.add_argument(
        "--exclusions", nargs="+", default=(), metavar="FILE", help=f"seconds to ignore, rows {EXCLUSION_FORM}"
    )
    parser.add_argument(
        "--max_rows_per_frame",
        type=non_negative_int,
        default=0,
        help="number of rows with the highest scores to evaluate per second; 50 in AVA's official script (default: 0 "
        "for all, as in SlowFast and VideoMAE)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print unrounded numbers, 0 to 1, as JSON instead of a table"
    )
    return parser


def _check_common(truth: np.ndarray, detections: np.ndarray, options) -> None:
    """Refuse files without a common second, whose mAP would be 0."""
    found, annotated = _frames(detections), _frames(truth)
    if set(found).isdisjoint(annotated):
        first, other = (",".join(map(str, frames[0])) for frames in (found, annotated))
        raise ValueError(
            f"{options.detections} and {options.ground_truth} have no second in common; they begin with video,second "
            f"{first} and {other}: are they of the same videos?"
        )


def _frames(rows: np.ndarray) -> list[tuple[str, int]]:
    return list(zip(rows["video"], rows["second"].tolist(), strict=True))


def _describe(file: str, rows: np.ndarray, label_map: LabelMap, excluded: Iterable[tuple[str, int]]) -> str:
    """Describe the contents of a file and the rows that are ignored."""
    frames = _frames(rows)
    empty = (rows[BOX[0]] >= rows[BOX[2]]) | (rows[BOX[1]] >= rows[BOX[3]])
    reasons = {
        "of classes that are not in the label map": ~np.isin(rows["action"], label_map.ids),
        "in excluded seconds": np.array([frame in excluded for frame in frames]),
        "with an empty box": empty,
    }
    ignored = [f"{int(rows.sum())} {why}" for why, rows in reasons.items() if rows.any()]
    return f"{file}: {len(rows)} rows, {len(set(frames))} seconds" + (
        f"; ignored: {', '.join(ignored)}" if ignored else ""
    )


if __name__ == "__main__":
    raise SystemExit(main())
