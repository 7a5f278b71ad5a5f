"""A detector of three classes, trained for a moment on three small movies, with everything that its run leaves."""

import shutil
from pathlib import Path

import numpy as np
from detection_files import IDS, write_label_map, write_lines
from inference_files import moving_frames
from video_files import write_video

import run_action_detection
from engines.configuration import parse_arguments

FPS, SECONDS = 8, 4
MOVIES = {"first": (48, 64), "second": (64, 48), "third": (48, 80)}
EXCLUDED = ("third", 3)


def write_movies(folder: Path) -> Path:
    """Write movies with one or two persons in seconds 1 to 3, their annotations, and persons found by a detector.

    In second 2 of the first movie somebody is found and nobody annotated, in second 1 of the second the reverse.
    """
    rng = np.random.default_rng(0)
    (folder / "movies").mkdir(parents=True)
    write_label_map(folder)
    rows, found = [], []
    for place, (video, shape) in enumerate(MOVIES.items()):
        write_video(folder / "movies" / f"{video}.mp4", moving_frames(SECONDS * FPS, *shape, seed=place), rate=FPS)
        for second in (1, 2, 3):
            for person in range(1 + (place + second) % 2):
                x, y = (rng.uniform(0, 0.4, 2)).round(3)
                box = np.array([x, y, x + 0.4, y + 0.5]).round(3)
                moved = (box + rng.uniform(-0.03, 0.03, 4)).clip(0, 1).round(3)
                if (video, second) != ("first", 2):
                    actions = rng.choice(IDS[:2], rng.integers(1, 3), replace=False)
                    rows += [f"{video},{second:04},{','.join(map(str, box))},{action},{person}" for action in actions]
                if (video, second) != ("second", 1):
                    score = round(rng.uniform(0.8, 1), 4)
                    found.append(f"{video},{second:04},{','.join(map(str, moved))},,{score}")
        found.append(f"{video},0002,0.0,0.0,0.2,0.2,,0.5")  # below the threshold
    for split in ("train", "val"):
        write_lines(folder / f"{split}.csv", *rows)
    write_lines(folder / "val_predicted_boxes.csv", *found)
    write_lines(folder / "exclusions.csv", "{},{:04}".format(*EXCLUDED))
    return folder


def train_detector(folder: Path, *words: str) -> Path:
    """Train for an epoch on `write_movies(folder)`, test, and return the output folder."""
    output = folder / "out"
    shutil.rmtree(output, ignore_errors=True)
    flags = parse_arguments(
        run_action_detection.get_parser(),
        [
            *("--data_path", str(folder), "--data_root", str(folder / "movies"), "--output_dir", str(output)),
            *("--model", "videomambapro_nano", "--num_frames", "4", "--sampling_rate", "2", "--fps", str(FPS)),
            *("--input_size", "32", "--short_side_size", "32", "--train_short_side", "32", "40"),
            *("--epochs", "1", "--warmup_epochs", "0", "--batch_size", "2", "--lr", "1e-2", "--device", "cpu"),
            *("--num_workers", "0", "--read_timeout", "0", "--no_bf16", *words),
        ],
        script=run_action_detection.SCRIPT,
    )
    run_action_detection.note_classes(flags)
    run_action_detection.main(flags)
    return output
