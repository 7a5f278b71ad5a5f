"""Scenes of several moving digits with annotations in AVA's format: `make_moving_digits --digits_per_clip 1-3`.

Every scene is a movie with annotations at second 1, which is its middle frame. Each digit has two classes, its motion
and its number, so neither the whole frame nor a single frame is enough to classify a box.

The output folder contains videos/ with SPLIT_00000.mp4 etc.; train.csv, val.csv and test.csv; label_map.pbtxt with the
ids 1 to 8 for the motions and 100 to 109 for the numbers; exclusions.csv with the scenes in which one digit occludes
another; and, as the output of a simulated person detector, val_predicted_boxes.csv and test_predicted_boxes.csv: a
jittered box of every digit, and one false box per scene with a lower score.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets.detection import boxes as box
from datasets.preparation.moving_digits import (
    CLASSES,
    SPLITS,
    bright_colour,
    digit_layer,
    draw_background,
    draw_digit,
    draw_trajectory,
    run_all,
    split_digits,
    write_video,
)

SECOND = 1
"""Annotated second of each scene."""
DIGIT_ID = 100
"""Class id of the digit 0; the ids of motions start from 1."""
WINDOW = 2 / 3
"""Side of the square in which a digit moves, as a fraction of the frame's side."""
PLACES_TRIED = 8
MOST_OVERLAP = 0.15
"""IoU of two digits' boxes above which a scene is excluded."""
DETECTOR_ERROR = 0.05
"""Standard deviation of a detected edge, as a fraction of the box's side."""
TRUE_SCORES, FALSE_SCORES = (0.9, 1.0), (0.6, 0.9)


@dataclass(frozen=True)
class Scene:
    """A clip of several digits.

    Attributes:
        frames: uint8 (num_frames, size, size, 3).
        boxes: (digits, 4) in the middle frame, as fractions of the frame.
        motions: (digits,) indices of `CLASSES`.
        numbers: (digits,) from 0 to 9.
    """

    frames: np.ndarray
    boxes: np.ndarray
    motions: np.ndarray
    numbers: np.ndarray

    @property
    def is_excluded(self) -> bool:
        """Whether one digit occludes another in the middle frame."""
        return bool(np.triu(box.overlaps(self.boxes, self.boxes), 1).max() > MOST_OVERLAP)


def draw_scene(split: str, digits: tuple[int, int], num_frames: int, size: int, rng: np.random.Generator) -> Scene:
    """Draw a scene.

    Args:
        split: Split whose images of digits are used.
        digits: Minimum and maximum number of digits.
        num_frames: Number of frames.
        size: Side of the frame in pixels.
        rng: Random generator.
    """
    pictures, all_numbers = split_digits(split)
    count = int(rng.integers(digits[0], digits[1], endpoint=True))
    chosen = rng.integers(len(pictures), size=count)
    motions = rng.integers(len(CLASSES), size=count)
    frames = np.stack([draw_background(size, rng)] * num_frames)
    boxes = np.zeros((0, 4))
    for picture, motion in zip(pictures[chosen], motions.tolist(), strict=True):
        layers, shown = _place(picture, motion, boxes, num_frames, size, rng)
        colour = bright_colour(rng)
        frames = np.stack([draw_digit(frame, layer, colour) for frame, layer in zip(frames, layers, strict=True)])
        boxes = np.append(boxes, shown, axis=0)
    return Scene(frames, boxes, motions, all_numbers[chosen])


def _place(
    picture: np.ndarray, motion: int, taken: np.ndarray, num_frames: int, size: int, rng: np.random.Generator
) -> tuple[list[Image.Image], np.ndarray]:
    """Place a moving digit with little overlap with the boxes `taken`; return its layers and its middle box (1, 4)."""
    window = round(WINDOW * size)
    path = draw_trajectory(motion, num_frames, window, rng)
    found = []
    for corner in rng.uniform(0, size - window, size=(PLACES_TRIED, 2)):
        layer = digit_layer(picture, path[num_frames // 2] + (*corner, 0), size)
        shown = np.array([layer.getbbox()]) / size
        found.append((box.overlaps(shown, taken).max(initial=0), tuple(corner), shown))
    _, corner, shown = min(found, key=lambda place: place[0])
    return [digit_layer(picture, place + (*corner, 0), size) for place in path], shown


def detect(boxes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Simulate a person detector: return boxes (n + 1, 4), the last of which is false, and their scores."""
    error = DETECTOR_ERROR * rng.standard_normal(boxes.shape) * np.tile(box.sides(boxes), 2)
    while True:
        corner, side = rng.uniform(0, 1 - WINDOW / 2, size=2), rng.uniform(WINDOW / 4, WINDOW / 2)
        false = np.array([[*corner, *(corner + side)]])
        if box.overlaps(false, boxes).max() < MOST_OVERLAP:
            break
    scores = np.append(rng.uniform(*TRUE_SCORES, size=len(boxes)), rng.uniform(*FALSE_SCORES))
    return box.clamp(np.concatenate([boxes + error, false]), 1, 1), scores


def write_scenes(output: Path, settings: dict, workers: int) -> None:
    """Write the dataset; arguments as in `make_data_set`."""
    (output / "videos").mkdir(parents=True, exist_ok=True)
    names = [*enumerate(CLASSES, start=1), *((DIGIT_ID + digit, f"digit {digit}") for digit in range(10))]
    entries = [f'item {{\n  name: "{name}"\n  id: {class_id}\n}}\n' for class_id, name in names]
    (output / "label_map.pbtxt").write_text("".join(entries))
    excluded = []
    total = sum(settings[split] for split in SPLITS)
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool, tqdm(total=total, unit="scene") as progress:
        for split in SPLITS:
            progress.set_description(split)
            write = partial(_write_scene, output=output, split=split, settings=settings)
            scenes = run_all(pool, write, settings[split], progress)
            rows, detected, exclusions = (sum(lines, []) for lines in zip(*scenes, strict=True))
            _write_lines(output / f"{split}.csv", rows)
            if split != "train":
                _write_lines(output / f"{split}_predicted_boxes.csv", detected)
            excluded += exclusions
    _write_lines(output / "exclusions.csv", excluded)


def _write_scene(index: int, *, output: Path, split: str, settings: dict) -> tuple[list[str], list[str], list[str]]:
    """Write a scene; return its lines of the annotations, of the detected boxes and of the exclusions."""
    rng = np.random.default_rng((settings["seed"], SPLITS.index(split), index))
    num_frames = settings["num_frames"]
    scene = draw_scene(split, settings["digits_per_clip"], num_frames, settings["size"], rng)
    video = f"{split}_{index:05}"
    write_video(output / "videos" / f"{video}.mp4", scene.frames, rate=num_frames // 2 // SECOND)
    second = f"{video},{SECOND:04}"
    rows = [
        f"{second},{_shares(place)},{class_id},{person}"
        for person, place in enumerate(scene.boxes)
        for class_id in (1 + scene.motions[person], DIGIT_ID + scene.numbers[person])
    ]
    found = [f"{second},{_shares(place)},,{score:.4f}" for place, score in zip(*detect(scene.boxes, rng), strict=True)]
    return rows, found, [second] if scene.is_excluded else []


def _shares(place: np.ndarray) -> str:
    return ",".join(f"{value:.4f}" for value in place)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines))
