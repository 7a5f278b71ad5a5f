"""Predict the classes of videos: `python run_inference.py --checkpoint FILE VIDEO...`.

A VIDEO is a file, a folder of videos or of frames, or a list (.csv, .txt). The script prints the five most probable
classes of each, using all views of the test, or one with --quick. A sliding window (--stride, --window) gives a curve
over time and its segments (--segments). --live predicts a camera or a stream as it comes. Model size, type, frames and
classes are read from the checkpoint.

The checkpoint of an action detector predicts the actions of the persons in given boxes (--boxes FILE,
docs/detection.md).

A video that cannot be read or scored is reported and the others are processed; the exit status is then 1. For a single
video, --curve, --heatmap and --annotate name a file; for several, a folder.
"""

import argparse
from collections.abc import Sequence

from common.flag_parser import FlagParser
from common.flag_types import fraction, non_negative_int, positive, positive_int
from common.terminal import escape_output
from datasets.detection.annotations import FULL, PERSON_FORM
from engines.early_check import check_inference
from inference.arguments import (
    add_computing_arguments,
    add_live_arguments,
    add_reading_arguments,
    add_segment_arguments,
    check_lists,
)

LIVE_FLAGS = ("live_timeout", "live_backlog")
CLASSIFIER_FLAGS = (
    *("scores", "curve", "heatmap", "stride", "window", "quick"),
    *("segments", "segment_enter", "segment_leave", "segment_smooth", "segment_shortest", "truth"),
    *("live", *LIVE_FLAGS),
    *("recipe", "sampling", "test_num_segment", "test_num_crop", "reader", "cuda_graph"),
)
FILE_FLAGS = ("scores", "curve", "heatmap", "annotate", "segments", "truth", "data_root")
DETECTOR_FLAGS = ("boxes", "box_threshold", "csv", "min_score", "fps", "start_second")
DETECTOR_SETTINGS = (
    *("box_threshold", "fps", "start_second", "filename_tmpl", "num_frames", "sampling_rate"),
    *("read_timeout", "batch_size", "num_workers"),
)


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of inference."""
    parser = FlagParser(description="VideoMambaPro: predict the classes of videos")
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="video file, folder, or list of paths (.csv, .txt)")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="published checkpoint or our own")
    parser.add_argument("--data_root", default="", metavar="DIR", help="folder that paths in lists are relative to")
    parser.add_argument(
        "--label_names",
        default="",
        metavar="FILE",
        help="one class name per line, in the order of the labels (default: those in the checkpoint, or numbers)",
    )
    _add_output(parser.add_argument_group("output"))
    add_segment_arguments(parser.add_argument_group("segments"))
    add_live_arguments(parser.add_argument_group("live"))
    add_reading_arguments(parser.add_argument_group("frames and views (default: as in the checkpoint's own test)"))
    _add_detection(
        parser.add_argument_group("action detection (default for reading: as in the checkpoint's own test)")
    )
    add_computing_arguments(parser.add_argument_group("computing"))
    return parser


def _add_output(group) -> None:
    group.add_argument(
        "--json", default="", metavar="FILE", help='one JSON object per line and video; "-" prints them'
    )
    group.add_argument(
        "--scores",
        default="",
        metavar="NPZ",
        help="the probabilities of all classes, with the lines and labels of a list (docs/features.md)",
    )
    group.add_argument("--curve", default="", metavar="PNG", help="plot of the probabilities over time")
    group.add_argument("--heatmap", default="", metavar="PNG", help="frames with heat maps of the relevant regions")
    group.add_argument(
        "--annotate", default="", metavar="MP4", help="copy of the video with prediction, heat map and curve"
    )
    group.add_argument(
        "--stride", type=positive_int, default=0, help="frames between windows (default: a quarter of the window)"
    )
    group.add_argument(
        "--window", type=positive_int, default=0, help="frames of a window (default: the span of a clip of the model)"
    )


def _add_detection(group) -> None:
    group.add_argument(
        "--boxes",
        default="",
        metavar="FILE",
        help=f"persons in the videos, rows {PERSON_FORM}, from any person detector; {FULL}: one box, the "
        "whole picture, for every second",
    )
    group.add_argument("--box_threshold", type=fraction, help="least score of persons that are used")
    group.add_argument("--csv", default="", metavar="FILE", help='a row for each box and class; "-" prints them')
    group.add_argument(
        "--min_score", type=fraction, default=0.3, help="of actions in tables and videos (default: %(default)s)"
    )
    group.add_argument("--fps", type=positive, help="frames a second: of folders as cut, of movies as they are read")
    group.add_argument("--start_second", type=non_negative_int, help="with which the videos begin (default: 0)")


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; end the process with status 2 if flags contradict each other or a file is missing."""
    parser = get_parser()
    args = parser.parse_args(words)
    try:
        _check_sources(args, parser)
        check_inference(args)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    return args


def _check_sources(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Raise a ValueError unless there are either videos or a live source, with flags that suit it."""
    if not args.live:
        if not args.videos:
            raise ValueError("there is no VIDEO; name files, folders or lists, or a source with --live")
        in_vain = [f"--{name}" for name in LIVE_FLAGS if getattr(args, name) != parser.get_default(name)]
        if in_vain:
            raise ValueError(f"{', '.join(in_vain)}: no effect without --live")
        check_lists(args.videos, args.data_root)
        return
    if args.videos:
        raise ValueError(f"--live {args.live} is the source; leave out {' '.join(args.videos)}")
    given = [f"--{name}" for name in FILE_FLAGS if getattr(args, name)]
    if given:
        raise ValueError(f"--live writes a line for each window, and has no {', '.join(given)}")


if __name__ == "__main__":
    escape_output()
    ARGS = parse_arguments()  # before what follows, which takes seconds to import

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

from common.memory import keep_freed_memory, share_one_arena
from common.progress import progress
from common.terminal import printable
from datasets.labelled_segments import SegmentList, read_segments
from datasets.readers import UnreadableVideoError
from engines.logs import setup_logging
from inference.batch import Outputs, Result, output_paths, process
from inference.detection_outputs import DetectionFormatter, annotate_detections
from inference.detector import is_detector, load_detector, refuse_commas, sources_of_detection
from inference.from_flags import predictor_of_flags, segment_settings_of_flags
from inference.list_rows import rows_of_list
from inference.live import LivePrediction, stopped_by_signals
from inference.live_source import SourceError
from inference.output_files import check_output_files
from inference.predictor import Measurement, Prediction, Predictor
from inference.segment_files import check_segment_file, segment_file
from inference.sources import expand_sources
from inference.stored_rows import write_rows
from models.describe import describe_checkpoint


def main(words: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit status, see `run`."""
    return run(parse_arguments(words))


def run(args: argparse.Namespace) -> int:
    """Predict as the flags say; return the exit status: 0, or 1 if a video could not be read or scored."""
    setup_logging(rank=0)
    parser = get_parser()
    # The table of loaded tensors matters for training; here the predictor logs the adapted ones.
    logging.getLogger("models.checkpoint").setLevel(logging.WARNING)
    try:
        detects = is_detector(describe_checkpoint(args.checkpoint))
        _refuse_flags_of(DETECTOR_FLAGS if not detects else CLASSIFIER_FLAGS, args, parser, detects)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    if args.live:
        return _follow_live(args, parser)
    return _detect(args, parser) if detects else _classify(args, parser)


def _classify(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        predictor = predictor_of_flags(args, label_names=args.label_names)
        _refuse_curves_of_numbers(args, predictor)
        sources = expand_sources(
            args.videos,
            filename_tmpl=predictor.filename_tmpl,
            images=predictor.plan.clip_shape[1] == 1,
            data_root=args.data_root,
        )
        outputs = Outputs(
            curves=output_paths(args.curve, sources, ".png"),
            heat_maps=output_paths(args.heatmap, sources, ".png"),
            annotated=output_paths(args.annotate, sources, ".mp4"),
            windows=bool(args.stride or args.window),
            window=args.window,
            stride=args.stride,
            segments=segment_settings_of_flags(args, predictor.threshold),
            truth=_read_truth(args, len(predictor.label_names)),
        )
        if args.segments:
            check_segment_file(args.segments, sources)
        if args.scores and not args.scores.endswith(".npz"):
            raise ValueError(f"--scores {args.scores} should end in .npz")
        of_sources = dict(curve=outputs.curves, heatmap=outputs.heat_maps, annotate=outputs.annotated)
        check_output_files(args, sources, **of_sources)
        listed = rows_of_list(args.videos, args.data_root) if args.scores else []
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if predictor.device.type == "cpu":
        keep_freed_memory()
    steps = partial(progress, desc="frames", enabled=len(sources) == 1)
    results = process(predictor, sources, outputs, num_workers=min(args.num_workers, len(sources) - 1), progress=steps)
    failed, scores = 0, {}
    with (
        _lines(args.json) as lines,
        segment_file(args.segments, sources) if args.segments else nullcontext() as write_segments,
        progress(results, desc="videos", total=len(sources)) as bar,
    ):
        for result in bar:
            try:
                if write_segments:
                    write_segments(result)
            except UnreadableVideoError as error:
                result = replace(result, error=error)
            failed += result.error is not None
            if args.scores and isinstance(result.prediction, Prediction):
                scores[result.path] = result.prediction.probabilities
            if lines is not None:
                lines.write(printable(json.dumps(result.record(), ensure_ascii=False, allow_nan=False)) + "\n")
                lines.flush()
            if result.error is not None:
                verb = "read" if isinstance(result.error, UnreadableVideoError) else "predict"
                bar.write(printable(f"cannot {verb} {result.path}: {result.error.reason}"), file=sys.stderr)
            elif lines is not sys.stdout:
                bar.write(_table(result), file=sys.stdout)
    if scores:
        write_rows(Path(args.scores), "scores", scores, listed)
    if failed:
        sys.stderr.write(f"{failed} of {len(sources)} could not be read or predicted\n")
    return 1 if failed else 0


def _follow_live(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    share_one_arena()
    try:
        predictor = predictor_of_flags(args, label_names=args.label_names)
        _refuse_curves_of_numbers(args, predictor)
        check_output_files(args)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    live = LivePrediction(
        predictor,
        args.live,
        window=args.window,
        stride=args.stride,
        backlog=args.live_backlog,
        timeout=args.live_timeout,
    )
    status = 0
    with _lines(args.json or "-") as lines, stopped_by_signals() as stopped:
        try:
            for record in live.records(stopped):
                lines.write(printable(json.dumps(record, ensure_ascii=False, allow_nan=False)) + "\n")
                lines.flush()
        except SourceError as error:
            sys.stderr.write(f"{error}\n")
            status = 1
        except BrokenPipeError:  # whoever read the lines has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    ring = live.ring
    sys.stderr.write(f"{ring.windows} windows, {ring.dropped} of {ring.received} frames dropped\n")
    return status


def _read_truth(args: argparse.Namespace, num_classes: int) -> SegmentList | None:
    if not args.truth:
        return None
    if not (args.curve or args.annotate):
        raise ValueError("--truth is drawn in --curve and --annotate, so give one of them")
    return read_segments(Path(args.truth), data_root=args.data_root, num_classes=num_classes)


def _refuse_curves_of_numbers(args: argparse.Namespace, predictor: Predictor) -> None:
    """Raise a ValueError for outputs that a regression does not have."""
    given = [f"--{name}" for name in (*FILE_FLAGS[:-1], "live", "window", "stride") if getattr(args, name)]
    if given and predictor.task == "regression":
        raise ValueError(f"{args.checkpoint} predicts numbers (--task regression), which have no {', '.join(given)}")


def _detect(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    try:
        detector = load_detector(
            args.checkpoint,
            device=args.device,
            label_names=args.label_names,
            bf16=args.bf16,
            backend=args.backend,
            **{name: getattr(args, name) for name in DETECTOR_SETTINGS},
        )
        sources = sources_of_detection(args.videos, args.filename_tmpl or "", args.data_root)
        annotated = output_paths(args.annotate, sources, ".mp4")
        check_output_files(args, sources, annotate=annotated)
        if args.csv and args.boxes == FULL:  # files of boxes have no rows for such videos
            refuse_commas(sources)
        results = detector.detect(sources, args.boxes)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    formatter = DetectionFormatter(detector.objective.label_map, args.min_score)
    failed = 0
    with (
        _lines(args.json) as lines,
        _lines(args.csv) as rows,
        progress(results, desc="videos", total=len(sources)) as bar,
    ):
        for video in bar:
            if rows is not None and video.error is None:
                rows.writelines(printable(row) + "\n" for row in formatter.csv_lines(video))
            if lines is not None:
                lines.write(printable(json.dumps(formatter.record(video), ensure_ascii=False, allow_nan=False)) + "\n")
                lines.flush()
            if sys.stdout not in (lines, rows) and video.error is None:
                bar.write("\n".join(map(printable, formatter.table(video))), file=sys.stdout)
            try:
                if video.path in annotated and video.error is None:
                    steps = partial(progress, desc="frames", enabled=len(sources) == 1)
                    annotate_detections(
                        video, detector.dataset(video), formatter, annotated[video.path], progress=steps
                    )
            except UnreadableVideoError as error:
                video.error = error
            failed += bool(video.error or video.unreadable)
            for problem in video.problems():
                bar.write(printable(problem), file=sys.stderr)
    if failed:
        sys.stderr.write(f"{failed} of {len(sources)} could not be read or predicted\n")
    return 1 if failed else 0


def _refuse_flags_of(
    names: Sequence[str], args: argparse.Namespace, parser: argparse.ArgumentParser, detects: bool
) -> None:
    """Raise a ValueError for flags that do not apply to the checkpoint, and for a detector without boxes."""
    given = [f"--{name}" for name in names if getattr(args, name) != parser.get_default(name)]
    if given:
        kind = "an action detector" if detects else "a classifier of clips"
        raise ValueError(f"{args.checkpoint} is {kind}, which has no {', '.join(given)}")
    if detects and not args.boxes:
        raise ValueError(
            f"{args.checkpoint} is an action detector and needs the boxes of the persons: give --boxes FILE "
            f"with rows {PERSON_FORM} from any person detector (docs/detection.md shows how to write it), or "
            f"--boxes {FULL} for one box per second, the whole picture"
        )


@contextmanager
def _lines(name: str) -> Iterator[IO[str] | None]:
    """Open the file of lines; yield standard output for "-" and None for an empty name."""
    if name in ("", "-"):
        yield sys.stdout if name else None
        return
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    with open(name, "w", encoding="utf-8") as file:
        yield file


def _table(result: Result) -> str:
    if isinstance(result.prediction, Measurement):
        lines = [f"  {value:.6g}  {name}" for name, value in result.prediction.by_name().items()]
    else:
        # Of a multilabel model, a star marks the classes that reach the threshold.
        least = 1.1 if result.prediction.threshold is None else result.prediction.threshold
        lines = [
            f"  {100 * score.probability:5.1f} % {'*' if score.probability >= least else ' '}{score.name}"
            for score in result.prediction.top(5)
        ]
    return "\n".join(map(printable, [f"{result.path} ({result.prediction.views} views)", *lines]))


if __name__ == "__main__":
    sys.exit(run(ARGS))
