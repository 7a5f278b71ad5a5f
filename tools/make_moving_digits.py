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
instead: see tools/digit_scenes.py.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import av
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from tqdm import tqdm

from common.flag_parser import FlagParser
from common.flag_types import non_negative_int, positive_int, seed

CLASSES = ("left", "right", "up", "down", "clockwise", "anticlockwise", "approaching", "receding")
SPLITS = ("train", "val", "test")
SPLIT_SHARES = (0.7, 0.15, 0.15)
SPEED = (4.5, 6.0)
DIGIT_SIZE = (24.0, 32.0)
SIZE_RANGE = (12.0, 56.0)
CENTRE_RANGE = (8.0, 56.0)  # limits of the centre of a digit, so that most of it is always visible
ORBIT_RADIUS = (16.0, 20.0)
ORBIT_CENTRE = (28.0, 36.0)
REFERENCE_SIZE = 64
MOST_DIGITS = 5
FRAME_RATE = 12
MARKER = "settings.json"
BOXES = "boxes.json"
FORMAT_VERSION = 6


def draw_trajectory(label: int, num_frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the random path of a digit of class `label`.

    The second class of a pair is a path of the first one played backwards. The start is random among those whose path
    stays in the picture; if the path would be too long for that, the motion is slower. Lengths scale with size / 64.

    Returns:
        centre x, centre y and side length in pixels, float (num_frames, 3).
    """
    pair, backwards = divmod(label, 2)
    speed = rng.uniform(*SPEED)
    x, y = (np.full(num_frames, rng.uniform(*CENTRE_RANGE)) for _ in "xy")
    side = np.full(num_frames, rng.uniform(*DIGIT_SIZE))
    if pair == 0:
        x = _sweep(CENTRE_RANGE, speed, num_frames, rng)[::-1]
    elif pair == 1:
        y = _sweep(CENTRE_RANGE, speed, num_frames, rng)[::-1]
    elif pair == 2:
        radius = rng.uniform(*ORBIT_RADIUS)
        middle = rng.uniform(*ORBIT_CENTRE, size=2)
        # The y axis points down, so an increasing angle is a clockwise rotation.
        angle = rng.uniform(0, 2 * np.pi) + speed / radius * np.arange(num_frames)
        x, y = middle[0] + radius * np.cos(angle), middle[1] + radius * np.sin(angle)
    else:
        side = _sweep(SIZE_RANGE, speed, num_frames, rng)
    path = np.stack([x, y, side], axis=1) * (size / REFERENCE_SIZE)
    return path[::-1] if backwards else path


def _sweep(bounds: tuple[float, float], speed: float, num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return a value that grows by `speed` per frame and stays within `bounds`, float (num_frames,)."""
    low, high = bounds
    travel = min(speed * (num_frames - 1), high - low)
    return rng.uniform(low, high - travel) + np.linspace(0, travel, num_frames)


def draw_background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a dark, coloured texture, uint8 (size, size, 3), from smooth noise at two scales."""
    picture = np.zeros((size, size, 3), dtype=np.float32)
    for cells, strength in ((4, 70), (16, 50)):
        noise = rng.integers(0, strength, size=(cells, cells, 3), dtype=np.uint8)
        picture += np.asarray(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return picture.astype(np.uint8)


def draw_digit(picture: np.ndarray, layer: Image.Image, colour: np.ndarray) -> np.ndarray:
    """Draw a digit in a colour on a picture (size, size, 3), using the brightness of `layer` as opacity."""
    alpha = np.asarray(layer, dtype=np.float32)[..., None] / 255
    return np.rint(picture * (1 - alpha) + colour * alpha).astype(np.uint8)


def digit_layer(digit: np.ndarray, place: Sequence[float], size: int) -> Image.Image:
    """Place a digit (8, 8) uint8 at `place` (x, y, side) on a black image (size, size), cropping it at the borders.

    The image's `getbbox()` is the box of the pixels that the digit covers: left, top, right, bottom, the last two
    exclusive.
    """
    x, y, side = place
    pixels = max(1, round(side))
    mask = Image.fromarray(digit).resize((pixels, pixels), Image.Resampling.BICUBIC)
    layer = Image.new("L", (size, size))
    layer.paste(mask, (round(x - side / 2), round(y - side / 2)))
    return layer


def draw_clip(
    label: int, digits: np.ndarray, num_frames: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """Draw a clip of class `label` with one of `digits` (n, 8, 8).

    Returns:
        the frames, uint8 (num_frames, size, size, 3); the box of the digit in each (see `digit_layer`).
    """
    digit = digits[rng.integers(len(digits))]
    background, colour = draw_background(size, rng), bright_colour(rng)
    trajectory = draw_trajectory(label, num_frames, size, rng)
    layers = [digit_layer(digit, place, size) for place in trajectory]
    return np.stack([draw_digit(background, layer, colour) for layer in layers]), [e.getbbox() for e in layers]


def split_digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the digits of a split, uint8 (n, 8, 8), and their numbers (n,); no two splits share an image."""
    pictures, numbers = _all_digits()
    # Independent of the seed of the data set: a test digit never becomes a training digit.
    order = np.random.default_rng(0).permutation(len(pictures))
    borders = np.rint(np.cumsum([0, *SPLIT_SHARES]) * len(order)).astype(int)
    i = SPLITS.index(split)
    chosen = order[borders[i] : borders[i + 1]]
    return pictures[chosen], numbers[chosen]


@lru_cache(maxsize=1)
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target


def bright_colour(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour that is brighter than any background: float32 (3,)."""
    return rng.integers(170, 256, size=3).astype(np.float32)


def write_video(path: Path, frames: np.ndarray, rate: int = FRAME_RATE) -> None:
    """Write frames uint8 (T, H, W, 3) as an H.264 file with a single key frame and reproducible bytes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"crf": "18", "preset": "veryfast", "bf": "0", "g": str(len(frames))}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_clip(index: int, *, output: Path, split: str, settings: dict) -> list[tuple[int, int, int, int]]:
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
    marker = output / MARKER
    wanted = {"format": FORMAT_VERSION, **settings}
    if marker.is_file() and json.loads(marker.read_text()) == json.loads(json.dumps(wanted)):
        return False
    marker.unlink(missing_ok=True)
    if "digits_per_clip" in settings:
        from tools.digit_scenes import write_scenes  # which takes its drawing functions from here

        write_scenes(output, settings, workers)
    else:
        _write_classes(output, settings, workers)
    marker.write_text(json.dumps(wanted, indent=2) + "\n")
    return True


def _write_classes(output: Path, settings: dict, workers: int) -> None:
    jobs = [(_write_clip, "videos", split, settings[split]) for split in SPLITS]
    jobs += [(_write_image, "images", split, settings[f"images_{split}"]) for split in ("train", "val")]
    total = sum(count for *_, count in jobs)
    boxes = {}
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool, tqdm(total=total, unit="file") as progress:
        for write, kind, split, count in jobs:
            (output / kind / split).mkdir(parents=True, exist_ok=True)
            progress.set_description(f"{kind} {split}")
            written = run_all(pool, partial(write, output=output, split=split, settings=settings), count, progress)
            if kind == "videos":
                boxes |= {f"videos/{split}/{i:05}.mp4": clip_boxes for i, clip_boxes in enumerate(written)}
            _write_lists(output, kind, split, written, settings)
    (output / BOXES).write_text(json.dumps(boxes) + "\n")
    (output / "labels.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    (output / "images" / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))


def run_all(pool: ProcessPoolExecutor, write: Callable, count: int, progress: tqdm) -> list:
    """Call `write` with the numbers below `count` in a pool; gives the results in their order."""
    results = []
    for result in pool.map(write, range(count), chunksize=16):
        results.append(result)
        progress.update()
    return results


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
