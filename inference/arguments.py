"""Flags of the programs that read videos with a trained model, declared without PyTorch.

`inference/from_flags.py` builds what they describe.
"""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

from common.flag_types import fraction, frame_template, non_negative, non_negative_int, positive, positive_int
from datasets.lists import check_any_file
from datasets.readers import DECODERS
from inference.defaults import LEAVE_SHARE, LIST_SUFFIXES, UNSURE
from inference.list_rows import read_rows
from mamba.mamba_ssm.variants import SCAN_BACKENDS


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
    group.add_argument("--backend", choices=SCAN_BACKENDS, help="backend of the scan (default: the fastest available)")
    group.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        help="compute in bfloat16 (default: if the GPU supports it)",
    )
    group.add_argument(
        "--cuda_graph",
        action="store_true",
        help="launch forward passes as CUDA graphs, for small models on a GPU, whose many kernels the host launches "
        "too slowly",
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


def check_lists(videos: Iterable[str], data_root: str = "") -> None:
    """Check the lists among the given videos, before a model is loaded.

    Raises:
        FileNotFoundError: A list does not exist, or none of its files does.
        ListFileError: A list has invalid lines.
    """
    for name in videos:
        if name.lower().endswith(LIST_SUFFIXES) and not os.path.isdir(name):
            check_any_file(read_rows(Path(name), data_root), name)
