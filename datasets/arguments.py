"""The command-line flags of the data: lists, sampling, augmentation, loading."""

import argparse

from common.flag_types import (
    fraction,
    frame_template,
    non_negative,
    non_negative_int,
    positive,
    positive_fraction,
    positive_int,
)
from datasets.presets import PRESETS
from datasets.readers import DECODERS
from datasets.transforms import CROP_AREA, CROP_ASPECT


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this package to a parser, with VideoMAE's names."""
    _add_lists(parser.add_argument_group("data: lists"))
    _add_sampling(parser.add_argument_group("data: frames and views"))
    _add_augmentation(parser.add_argument_group("data: augmentation (training)"))
    _add_loading(parser.add_argument_group("data: loading"))


def _add_lists(group) -> None:
    group.add_argument(
        "--data_set", default="custom", metavar="NAME", help=f"preset: {', '.join(PRESETS)} (default: custom)"
    )
    group.add_argument("--data_path", default="", metavar="DIR", help="folder with train, val and test .csv or .txt")
    for name in ("train", "val", "test"):
        group.add_argument(f"--{name}_list", default="", metavar="FILE", help=f"list, instead of {name}.csv")
    group.add_argument(
        "--data_root", "--prefix", default="", metavar="DIR", help="folder that the paths in the lists start from"
    )
    group.add_argument(
        "--split", default="", metavar="SEP", help='separator of the columns, or "tab" (default: recognised)'
    )
    group.add_argument(
        "--nb_classes",
        "--num_classes",
        type=non_negative_int,
        default=0,
        help="number of classes (default: the preset's, or read off the lists)",
    )
    group.add_argument(
        "--label_names",
        default="",
        metavar="FILE",
        help="names of the classes, one a line; kept in args.json, checkpoints and results.json",
    )
    group.add_argument(
        "--filename_tmpl",
        type=frame_template,
        default="img_{:05}.jpg",
        help="names of frames in a folder (default: %(default)s)",
    )
    group.add_argument(
        "--first_frame",
        "--start_index",
        type=non_negative_int,
        default=None,
        metavar="N",
        help="number of a folder's first frame (default: found by looking at some folders)",
    )


def _add_sampling(group) -> None:
    group.add_argument(
        "--sampling",
        choices=("dense", "sparse", "uniform"),
        default=None,
        help="how frames are chosen (default: the preset's)",
    )
    group.add_argument("--num_frames", type=positive_int, default=8, help="frames of a clip (default: %(default)s)")
    group.add_argument(
        "--sampling_rate",
        type=positive_int,
        default=4,
        help="step between frames of dense sampling (default: %(default)s)",
    )
    group.add_argument(
        "--input_size", type=positive_int, default=224, help="side of a clip in pixels (default: %(default)s)"
    )
    group.add_argument(
        "--short_side_size",
        type=positive_int,
        default=224,
        help="side that evaluation resizes to (default: %(default)s)",
    )
    group.add_argument(
        "--test_num_segment", type=positive_int, default=4, help="test clips over time (default: %(default)s)"
    )
    group.add_argument(
        "--test_num_crop", type=positive_int, default=3, help="test crops of a clip (default: %(default)s)"
    )
    group.add_argument(
        "--crop_pct",
        type=positive_fraction,
        default=0.875,
        help="share of an image kept in evaluation (default: %(default)s)",
    )


def _add_augmentation(group) -> None:
    group.add_argument(
        "--num_sample", type=positive_int, default=2, help="augmentations of each decoded clip (default: %(default)s)"
    )
    group.add_argument("--aa", default=None, help='RandAugment, "none" for off (default: the preset\'s)')
    group.add_argument(
        "--color_jitter", type=non_negative, default=0.4, help="images without --aa: strength (default: %(default)s)"
    )
    group.add_argument(
        "--train_interpolation", default="bicubic", help="bilinear, bicubic or random (default: %(default)s)"
    )
    group.add_argument(
        "--scale",
        type=positive_fraction,
        nargs=2,
        default=CROP_AREA,
        metavar=("MIN", "MAX"),
        help="area of a random crop, a share",
    )
    group.add_argument(
        "--ratio", type=positive, nargs=2, default=CROP_ASPECT, metavar=("MIN", "MAX"), help="its width / height"
    )
    group.add_argument("--hflip", type=fraction, default=None, help="probability of mirroring (default: the preset's)")
    group.add_argument("--reprob", type=fraction, default=0.25, help="probability of erasing (default: %(default)s)")
    group.add_argument("--remode", default="pixel", help="erase with pixel, rand or const (default: %(default)s)")
    group.add_argument("--recount", type=positive_int, default=1, help="most boxes to erase (default: %(default)s)")


def _add_loading(group) -> None:
    group.add_argument(
        "--batch_size", type=positive_int, default=64, help="videos per process and step (default: %(default)s)"
    )
    group.add_argument(
        "--sampler",
        choices=("uniform", "balanced"),
        default="uniform",
        help="uniform: every training video once an epoch; balanced: every class as often as the others (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--num_workers", type=non_negative_int, default=10, help="loader processes (default: %(default)s)"
    )
    group.add_argument(
        "--reader", choices=DECODERS, default=DECODERS[0], help="what decodes videos (default: %(default)s)"
    )
    group.add_argument(
        "--read_timeout",
        type=non_negative,
        default=60,
        metavar="SECONDS",
        help="a file that takes longer, or crashes its decoder, is unreadable and does not stop the run; time in "
        "which the job is suspended or a disk does not answer is not counted; "
        "0: no limit, and decode in the worker itself (default: %(default)s)",
    )
    group.add_argument("--pin_mem", action="store_true", default=True, help="pin memory for a GPU (default)")
    group.add_argument("--no_pin_mem", action="store_false", dest="pin_mem", help="do not pin memory")
    group.add_argument(
        "--gpu_transforms",
        action="store_true",
        help="normalise and erase on the device, a batch at a time: workers pass on 1 byte a value instead of 4. "
        "Pays where a GPU waits for its workers or for transfers; on a CPU it costs time (default: off)",
    )
    group.add_argument(
        "--strict_data", action="store_true", help="an unreadable evaluation video is an error, not left out"
    )
