"""Flags of the tools that read videos with a trained model, and the predictor that they describe."""

import argparse
from typing import Any

from common.flag_types import fraction, frame_template, non_negative, non_negative_int, positive, positive_int
from datasets.readers import DECODERS
from inference.predictor import QUICK, UNSURE, Predictor, load_predictor
from inference.segments import LEAVE_SHARE, SegmentSettings
from inference.settings import SAMPLING_FLAGS


def add_reading_arguments(group) -> None:
    """Add the flags of frames and views to a group of a parser."""
    group.add_argument("--quick", action="store_true", help="use a single view from the middle")
    group.add_argument("--recipe", default="", metavar="NAME", help="recipe of sampling and views, such as k400")
    group.add_argument("--sampling", choices=("dense", "sparse", "uniform"), help="how frames are sampled")
    group.add_argument("--num_frames", type=positive_int, help="frames per clip")
    group.add_argument("--sampling_rate", type=positive_int, help="step between frames in dense sampling")
    group.add_argument("--test_num_segment", type=positive_int, help="temporal clips per video")
    group.add_argument("--test_num_crop", type=positive_int, help="spatial crops per clip")
    group.add_argument("--reader", choices=tuple(DECODERS), help="video decoder (default: pyav)")
    group.add_argument(
        "--read_timeout",
        type=non_negative,
        metavar="SECONDS",
        help="time limit of one read; a video that takes longer counts as unreadable (default: 60)",
    )
    group.add_argument(
        "--filename_tmpl", type=frame_template, help="file names of frames in a folder (default: img_{:05}.jpg)"
    )


def add_computing_arguments(group) -> None:
    """Add the flags of device, precision and speed to a group of a parser."""
    group.add_argument("--device", default="", help="cpu, cuda, cuda:1 (default: cuda if available)")
    group.add_argument("--backend", metavar="NAME", help="backend of the scan (default: the fastest available)")
    group.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        help="compute in bfloat16 (default: if the GPU supports it)",
    )
    group.add_argument(
        "--batch_size",
        type=positive_int,
        default=8,
        help="largest number of clips in a forward pass (default: %(default)s)",
    )
    group.add_argument(
        "--num_workers",
        type=non_negative_int,
        default=2,
        help="processes that decode videos in advance (default: %(default)s)",
    )


def add_segment_arguments(group) -> None:
    """Add the flags of segments to a group of a parser."""
    group.add_argument(
        "--segments",
        default="",
        metavar="FILE",
        help="segments of the curve as a list for training (.csv), .json, or subtitles (.srt, .vtt)",
    )
    group.add_argument(
        "--segment_enter",
        type=fraction,
        help=f"probability that a segment reaches at least once (default: {UNSURE}; of a model of several labels, the "
        "threshold that its validation chose)",
    )
    group.add_argument(
        "--segment_leave",
        type=fraction,
        help=f"probability down to which it extends (default: {LEAVE_SHARE} of --segment_enter)",
    )
    for name, effect in (
        ("smooth", "length over which the curve is averaged"),
        ("shortest", "shorter segments are left out, and shorter gaps within a class closed"),
    ):
        group.add_argument(
            f"--segment_{name}",
            type=non_negative,
            metavar="SECONDS",
            help=f"{effect}; in frames for a folder of frames (default: half a window)",
        )
    group.add_argument(
        "--truth", default="", metavar="LIST", help="labelled segments, to be drawn in --curve and --annotate"
    )


def add_live_arguments(group) -> None:
    """Add the flags of a live source to a group of a parser."""
    group.add_argument(
        "--live",
        default="",
        metavar="SOURCE",
        help="predict windows as they come, as JSON lines: number of a camera, address (rtsp://, udp://), FIFO, or - "
        "for standard input; a file is played at its own speed",
    )
    group.add_argument(
        "--live_timeout",
        type=positive,
        default=10.0,
        metavar="SECONDS",
        help="without a frame, after which the source is opened again (default: %(default)s)",
    )
    group.add_argument(
        "--live_backlog",
        type=positive_int,
        default=0,
        metavar="FRAMES",
        help="that may wait for the model before frames are dropped; bounds the latency (default: a window)",
    )


def segment_settings_of_flags(args: argparse.Namespace, threshold: float | None) -> SegmentSettings | None:
    """Return how segments are read off a curve; None if neither --segments nor --truth needs them.

    Args:
        args: Flags of `add_segment_arguments`.
        threshold: That of the model, as `Predictor.threshold`; the default of --segment_enter.

    Raises:
        ValueError: thresholds or lengths are given in vain, or see `SegmentSettings`.
    """
    enter, leave, lengths = args.segment_enter, args.segment_leave, (args.segment_smooth, args.segment_shortest)
    if args.segments or args.truth:
        if enter is None:
            enter = UNSURE if threshold is None else threshold
        return SegmentSettings(enter, LEAVE_SHARE * enter if leave is None else leave, *lengths)
    if (enter, leave, *lengths) != (None,) * 4:
        raise ValueError("--segment_enter, _leave, _smooth and _shortest have no effect without --segments or --truth")
    return None


def predictor_of_flags(args: argparse.Namespace, **more: Any) -> Predictor:
    """Load `args.checkpoint` as the flags of reading and computing say; `more` are arguments of `load_predictor`.

    Raises:
        FileNotFoundError, ValueError: see `load_predictor`.
    """
    names = (*SAMPLING_FLAGS, "filename_tmpl", "reader", "read_timeout", "backend")
    chosen = {name: getattr(args, name, None) for name in names}
    return load_predictor(
        args.checkpoint,
        device=args.device,
        recipe=args.recipe,
        bf16=args.bf16,
        clips_per_forward=args.batch_size,
        **(chosen | (QUICK if args.quick else {}) | more),
    )
