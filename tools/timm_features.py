"""Store an image model's features of the videos or images of a list, from which a student learns.

    python -m tools.timm_features MODEL LIST --output features.npz                   weights that timm downloads
    python -m tools.timm_features MODEL LIST --output features.npz --weights FILE    a file with timm's names

MODEL is a name of timm, such as resnet50.a1_in1k. It sees the central square of frames that are spread evenly over
each video, and the features in front of its classifier are averaged over the frames. The mean of all rows is taken
away from each: the features of most networks point in much the same direction, and the cosine of `--distill_loss
feature` would see little else. docs/features.md describes the file and its use.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common.files import require_weights
from common.flag_parser import FlagParser
from common.flag_types import frame_template, non_negative, positive_int
from common.progress import progress
from common.terminal import escape_output
from inference.arguments import check_lists
from inference.list_rows import rows_of_list
from inference.output_files import check_writable


def get_parser() -> argparse.ArgumentParser:
    """Return the parser of this tool."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="image model of timm")
    parser.add_argument("list", metavar="LIST", help="list of videos, frame folders or images (.csv, .txt)")
    parser.add_argument("--output", type=Path, required=True, metavar="NPZ", help="file to write")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="the model's weights (default: timm's download)")
    parser.add_argument("--data_root", default="", metavar="DIR", help="folder that paths in the list are relative to")
    parser.add_argument(
        "--num_frames", type=positive_int, default=8, help="most frames of a video (default: %(default)s)"
    )
    parser.add_argument("--input_size", type=positive_int, help="side of a frame in pixels (default: the model's)")
    parser.add_argument(
        "--filename_tmpl",
        type=frame_template,
        default="img_{:05}.jpg",
        help="file names of frames in a folder (default: %(default)s)",
    )
    parser.add_argument(
        "--read_timeout",
        type=non_negative,
        default=60,
        metavar="SECONDS",
        help="time limit of one read (default: %(default)s); 0: none, files are read in this process",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, or 1 if a file of the list cannot be read."""
    escape_output()
    parser = get_parser()
    args = parser.parse_args(arguments)
    try:
        check_lists([args.list], args.data_root)
        if args.output.suffix != ".npz":
            raise ValueError(f"--output {args.output} should end in .npz")
        check_writable("--output", args.output)
        if args.weights:
            require_weights(args.weights)
        # PyTorch takes seconds to import.
        from inference.image_features import ImageFeatures

        listed = rows_of_list([args.list], args.data_root)
        if not listed:
            raise ValueError(f"{args.list} is not a list with lines (.csv, .txt)")
        features = ImageFeatures.load(
            args.model, args.weights, input_size=args.input_size, num_frames=args.num_frames, device=args.device
        )
    except (OSError, ValueError, RuntimeError) as error:
        parser.error(str(error))
    from datasets.readers import Guard, UnreadableVideoError, open_reader
    from inference.sources import opener_of
    from inference.stored_rows import write_rows

    guard = Guard(args.read_timeout) if args.read_timeout else None
    videos, rows = dict.fromkeys(row.path for row in listed), {}
    for path in progress(videos, desc="videos", total=len(videos)):
        try:
            rows[path] = features(open_reader(path, opener_of(path, args.filename_tmpl, "pyav"), guard))
        except UnreadableVideoError as error:
            parser.exit(1, f"{error}\nNothing was written: a student needs a row for every line of its list.\n")
    mean = sum(rows[row.path] for row in listed) / len(listed)
    write_rows(args.output, "features", {path: row - mean for path, row in rows.items()}, listed)
    print(f"{args.output}: {len(listed)} rows of {len(mean)} features")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
