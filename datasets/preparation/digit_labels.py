"""Moving digits with other labels than one class: several motions, at once or one after another, and their speed.

The folder of a set contains videos/ and lists whose paths are relative to it.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.annotations import VideoRecord
from datasets.labels import Target
from datasets.list_writing import format_list
from datasets.preparation.digit_films import draw_film
from datasets.preparation.digit_scenes import draw_scene
from datasets.preparation.moving_digits import CLASSES, SPLITS, draw_clip, run_all, split_digits, write_video

MOST_MOTIONS = 2
SIDEWAYS = (("left", -1), ("right", 1))  # the sign of their speeds
SPEEDS = (0.5, 6.5)  # in pixels per frame of a side of 64; a faster digit would reach the border

Clip = tuple[np.ndarray, Target]


def draw_motions(split: str, num_frames: int, size: int, rng: np.random.Generator) -> Clip:
    """Draw up to `MOST_MOTIONS` digits that move at once: frames (T, H, W, 3) and the classes of their motions."""
    scene = draw_scene(split, (0, MOST_MOTIONS), num_frames, size, rng)
    return scene.frames, tuple(np.unique(scene.motions).tolist())


def draw_motion(split: str, num_frames: int, size: int, rng: np.random.Generator) -> Clip:
    """Draw a digit: frames (T, H, W, 3) and the class of its motion."""
    label = int(rng.integers(len(CLASSES)))
    return draw_clip(label, split_digits(split)[0], num_frames, size, rng)[0], label


def draw_speed(split: str, num_frames: int, size: int, rng: np.random.Generator) -> Clip:
    """Draw a digit that moves sideways: frames (T, H, W, 3) and its speed to the right in pixels per frame."""
    speed = float(rng.uniform(*SPEEDS))
    name, sign = SIDEWAYS[rng.integers(len(SIDEWAYS))]
    frames, _ = draw_clip(CLASSES.index(name), split_digits(split)[0], num_frames, size, rng, speed=speed)
    return frames, (round(sign * speed, 4),)


SETS: dict[str, Callable[..., Clip]] = {
    "motions": draw_motions,
    "motion": draw_motion,
    "speed": draw_speed,
    "films": draw_film,
}


def write_set(name: str, output: Path, settings: dict, workers: int = 0) -> None:
    """Write the videos and lists of a set.

    Args:
        name: Key of `SETS`.
        output: Folder, created if necessary.
        settings: seed, num_frames, size (pixels), train, val, test (clips).
        workers: Processes; 0 for one per CPU core.
    """
    total = sum(settings[split] for split in SPLITS)
    with ProcessPoolExecutor(workers or os.cpu_count()) as pool, tqdm(total=total, unit="file", desc=name) as progress:
        for split in SPLITS:
            (output / "videos" / split).mkdir(parents=True, exist_ok=True)
            write = partial(_write_clip, name=name, output=output, split=split, settings=settings)
            records = run_all(pool, write, settings[split], progress)
            (output / f"{split}.csv").write_text(format_list(records, "video"))


def _write_clip(index: int, *, name: str, output: Path, split: str, settings: dict) -> VideoRecord:
    rng = np.random.default_rng((settings["seed"], SPLITS.index(split), index))
    frames, target = SETS[name](split, settings["num_frames"], settings["size"], rng)
    path = f"videos/{split}/{index:05}.mp4"
    write_video(output / path, frames)
    return VideoRecord(path, target, index + 1)
