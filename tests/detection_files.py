"""Small data sets for detection: annotations in AVA's form, and pictures in which every box is painted."""

from pathlib import Path

import numpy as np
from video_files import write_folder

from datasets.detection.arguments import DetectionSettings

LABEL_MAP = 'item {\n  name: "walk"\n  id: 12\n}\nitem {\n  name: "hold"\n  id: 7\n}\nitem { name: "talk" id: 300 }\n'
"""Ids that neither begin at 1 nor ascend."""
IDS = (12, 7, 300)


def write_lines(path: Path, *lines: str) -> Path:
    """Write lines of text."""
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_label_map(folder: Path) -> Path:
    """Write the label map above."""
    path = folder / "label_map.pbtxt"
    path.write_text(LABEL_MAP)
    return path


def painted(shape: tuple[int, int], boxes: np.ndarray, count: int = 8) -> np.ndarray:
    """Paint boxes, shares of the picture, white on black, in every frame: uint8 (count, height, width, 3)."""
    height, width = shape
    frames = np.zeros((count, height, width, 3), np.uint8)
    for x1, y1, x2, y2 in np.rint(np.asarray(boxes) * (width, height, width, height)).astype(int):
        frames[:, y1:y2, x1:x2] = 255
    return frames


def write_scenes(folder: Path, shapes: dict[str, tuple[int, int]], split: str = "train") -> Path:
    """Write a folder of 8 frames of 4 a second for each video, with persons at second 1, and their annotations."""
    write_label_map(folder)
    rows, detected = [], []
    for i, (video, shape) in enumerate(shapes.items()):
        boxes = [(0.125, 0.25, 0.375, 0.75), (0.5, 0.5, 1.0, 1.0)][: 1 + i % 2]
        write_folder(folder / "media" / video, painted(shape, np.array(boxes)), f"{video}_{{:06}}.jpg")
        for person, box in enumerate(boxes):
            place = f"{video},0001,{','.join(map(str, box))}"
            rows += [f"{place},{IDS[person]},{person}", f"{place},300,{person}"]
            detected.append(f"{place},,0.9")
    write_lines(folder / f"{split}.csv", *rows)
    write_lines(folder / f"{split}_predicted_boxes.csv", *detected)
    return folder


def small_settings(folder: Path, **settings) -> DetectionSettings:
    """Settings for `write_scenes`: clips of 8 frames and 64 pixels, read in this process."""
    small = dict(num_frames=8, sampling_rate=1, input_size=64, short_side_size=64, train_short_side=(64, 80))
    where = dict(data_path=str(folder), data_root=str(folder / "media"), fps=4.0, start_second=0)
    light = dict(batch_size=2, num_workers=0, read_timeout=0.0)
    return DetectionSettings(**(small | where | light | settings))
