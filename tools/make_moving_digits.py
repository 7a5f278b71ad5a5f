"""Create a small video data set whose classes can only be distinguished by the order of frames.

    python -m tools.make_moving_digits --output data/moving_digits

Handwritten digits (scikit-learn's, 8 x 8 pixels, enlarged) move over a textured background; the class is the motion,
in four pairs of which one is the other played backwards. Both classes of a pair show the same frames, so only the
order of frames reveals the class. Test clips use other images of digits than training clips.

Output: videos/ as H.264 files, frames/ as folders of JPEGs, and images/ of single digits for pretraining (10 classes),
each with lists whose paths are relative to the output folder; labels.txt with the names of the motions; boxes.json
with a box [left, top, right, bottom] of the digit in pixels for every frame of every video.

    python -m tools.make_moving_digits --output data/digit_scenes --digits_per_clip 1-3 --size 96

With several digits per clip, each with its own motion, the dataset is for action detection and has AVA's files
instead: see datasets/preparation/digit_scenes.py.
"""

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from common.files import write_once
from common.flag_parser import FlagParser
from common.flag_types import non_negative_int, positive_int, seed
from common.progress import progress
from datasets.preparation.digit_scenes import write_scenes
from datasets.preparation.moving_digits import (
    CLASSES,
    REFERENCE_SIZE,
    SPLITS,
    bright_colour,
    digit_layer,
    draw_background,
    draw_clip,
    draw_digit,
    run_all,
    split_digits,
    write_video,
)

MOST_DIGITS = 5
MARKER = "settings.json"
BOXES = "boxes.json"
FORMAT_VERSION = 6


def _write_clip(index: int, *, output: Path, split: str, settings: dict) -> list[tuple[int, int, int, int] | None]:
    """Write clip `index` of a split as a video and, if requested, as a folder of frames; return the digit's boxes."""
    rng = np.random.default_rng((settings["seed"], SPLITS.index(split), index))
    digits, _ = split_digits(split)
    frames, boxes = draw_clip(index % len(CLASSES), digits, settings["num_frames"], settings["size"], rng)
    write_video(output / "videos" / split / f"{index:05}.mp4", frames)
    if index < settings["frame_clips"]:
        folder = output / "frames" / split / f"{index:05}"
        folder.mkdir(parents=True, exist_ok=True)
        for i, frame in enumerate(frames, start=1):
            Image.fromarray(frame).save(folder / f"img_{i:05}.jpg", quality=95)
    return boxes


def _write_image(index: int, *, output: Path, split: str, settings: dict) -> int:
    """Write image `index` of a split, a digit on a background; return the number shown."""
    rng = np.random.default_rng((settings["seed"], len(SPLITS) + SPLITS.index(split), index))
    digits, numbers = split_digits(split)
    chosen = rng.integers(len(digits))
    size = settings["size"]
    # Entirely within the picture, because pretraining should learn what digits look like.
    side = rng.uniform(40, 56) * size / REFERENCE_SIZE
    x, y = rng.uniform(side / 2, size - side / 2, size=2)
    layer = digit_layer(digits[chosen], (x, y, side), size)
    picture = draw_digit(draw_background(size, rng), layer, bright_colour(rng))
    Image.fromarray(picture).save(output / "images" / split / f"{index:05}.jpg", quality=95)
    return int(numbers[chosen])


def make_data_set(output: Path, settings: dict, workers: int = 0) -> bool:
    """Write the data set, unless the folder already contains it with the same settings.

    Args:
        output: the folder, created if necessary.
        settings: seed, num_frames, size (pixels), train, val, test (clips); and either frame_clips (clips of each
            split that are also written as frame folders), images_train, images_val, or digits_per_clip (minimum and
            maximum).
        workers: processes; 0 for one per CPU core.

    Returns:
        whether anything was written.
    """
    write = write_scenes if "digits_per_clip" in settings else _write_classes
    wanted = {"format": FORMAT_VERSION, **settings}
    return write_once(output / MARKER, wanted, lambda: write(output, settings, workers))


def _write_classes(output: Path, settings: dict, workers: int) -> None:
    jobs = [(_write_clip, "videos", split, settings[split]) for split in SPLITS]
    jobs += [(_write_image, "images", split, settings[f"images_{split}"]) for split in ("train", "val")]
    total = sum(count for *_, count in jobs)
    boxes = {}
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool, progress((), desc="files", total=total) as bar:
        for write, kind, split, count in jobs:
            (output / kind / split).mkdir(parents=True, exist_ok=True)
            bar.set_description(f"{kind} {split}")
            written = run_all(pool, partial(write, output=output, split=split, settings=settings), count, bar)
            if kind == "videos":
                boxes |= {f"videos/{split}/{i:05}.mp4": clip_boxes for i, clip_boxes in enumerate(written)}
            _write_lists(output, kind, split, written, settings)
    (output / BOXES).write_text(json.dumps(boxes) + "\n")
    (output / "labels.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    (output / "images" / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))


def _write_lists(output: Path, kind: str, split: str, numbers: list, settings: dict) -> None:
    """Write the lists of a split: of videos and their frame folders, or of images."""
    if kind == "images":
        lines = [f"images/{split}/{i:05}.jpg 1 {digit}" for i, digit in enumerate(numbers)]
    else:
        lines = [f"videos/{split}/{i:05}.mp4 {i % len(CLASSES)}" for i in range(settings[split])]
        folders = min(settings["frame_clips"], settings[split])
        frame_lines = [f"frames/{split}/{i:05} {settings['num_frames']} {i % len(CLASSES)}" for i in range(folders)]
        if frame_lines:
            (output / "frames" / f"{split}.csv").write_text("\n".join(frame_lines) + "\n")
    (output / kind / f"{split}.csv").write_text("\n".join(lines) + "\n")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = FlagParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="output folder")
    parser.add_argument("--seed", type=seed, default=0, help="random seed; the same seed gives the same files")
    parser.add_argument("--train", type=non_negative_int, default=1600, help="training clips")
    parser.add_argument("--val", type=non_negative_int, default=320, help="validation clips")
    parser.add_argument("--test", type=non_negative_int, default=320, help="test clips")
    parser.add_argument("--num_frames", type=positive_int, default=8, help="frames per clip")
    parser.add_argument("--size", type=positive_int, default=64, help="side of the square frames in pixels, even")
    parser.add_argument(
        "--frame_clips",
        type=non_negative_int,
        default=320,
        help="clips per split that are also written as frame folders",
    )
    parser.add_argument("--images_train", type=non_negative_int, default=2600, help="training images")
    parser.add_argument("--images_val", type=non_negative_int, default=400, help="validation images")
    parser.add_argument(
        "--digits_per_clip",
        type=_digits_range,
        metavar="N-M",
        help="write scenes for action detection, with this number of digits each, such as 1-3",
    )
    parser.add_argument("--workers", type=non_negative_int, default=0, help="processes; 0: one per CPU core")
    options = parser.parse_args(arguments)
    if options.size < 16 or options.size % 2:
        parser.error(f"--size {options.size}: H.264 needs an even number of pixels, and the motions at least 16")
    if options.num_frames < 2:
        parser.error(f"--num_frames {options.num_frames}: a motion needs at least 2")
    if min(options.train, options.val, options.test, options.images_train, options.images_val) < 1:
        parser.error("every split needs at least one clip and one image")
    return options


def _digits_range(text: str) -> tuple[int, int]:
    """Read `1-3`, or `2` for 2-2."""
    least, _, most = text.partition("-")
    if not (least + (most or least)).isdecimal() or not 1 <= int(least) <= int(most or least) <= MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"must be numbers from 1 to {MOST_DIGITS} such as 1-3, not {text}")
    return int(least), int(most or least)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    settings = vars(parse_arguments(arguments))
    without = ("frame_clips", "images_train", "images_val") if settings["digits_per_clip"] else ("digits_per_clip",)
    for name in without:
        del settings[name]
    output, workers = settings.pop("output"), settings.pop("workers")
    made = make_data_set(output, settings, workers)
    print(f"{output}: {'written' if made else 'already complete'}")


if __name__ == "__main__":
    main()
