"""docs/detection.md: its code runs, and its flags are there."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from video_files import write_video

import run_action_detection
import run_inference
from datasets.detection.annotations import read_person_boxes

PAGE = (Path(__file__).parent.parent / "docs" / "detection.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
WIDTH, HEIGHT, FPS = 96, 64, 5


class Finder:
    """In place of torchvision's detector: finds the white rectangle of a picture, and things that are no persons."""

    def __init__(self, weights):
        self.seen = []

    def eval(self):
        return self

    def __call__(self, pictures):
        (picture,) = pictures
        assert picture.dtype == torch.float32 and picture.shape == (3, HEIGHT, WIDTH) and picture.max() <= 1
        rows, columns = torch.nonzero(picture.mean(0) > 0.5, as_tuple=True)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        boxes = torch.tensor([box, [0, 0, 9, 9], [0, 0, 9, 9]], dtype=torch.float32)
        return [{"boxes": boxes, "labels": torch.tensor([1, 18, 1]), "scores": torch.tensor([0.9, 0.9, 0.2])}]


def test_the_boxes_of_a_person_detector_become_a_file_that_is_read(tmp_path, monkeypatch):
    frames = np.zeros((3 * FPS, HEIGHT, WIDTH, 3), np.uint8)
    for number, frame in enumerate(frames):
        left = 16 + 2 * number
        frame[16:48, left : left + 24] = 255
    write_video(tmp_path / "video.mp4", frames, rate=FPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision.models.detection, "fasterrcnn_resnet50_fpn_v2", Finder)
    exec(compile(BLOCKS[0], "docs/detection.md", "exec"), {})
    found = read_person_boxes("boxes.csv", 0.8)
    assert list(found) == [("video", second) for second in range(3)]
    for (_, second), persons in found.items():
        left = 16 + 2 * second * FPS
        expected = [left / WIDTH, 0.25, (left + 24) / WIDTH, 0.75]
        assert persons.scores == [0.9] and persons.boxes[0] == pytest.approx(expected, abs=0.02)


def test_every_flag_on_the_page_is_there():
    from tools.evaluate_ava import get_parser as evaluation_parser

    known = {"--gpus", "--frames", "--model"}  # of scripts/launch.sh
    for parser in (run_action_detection.get_parser(), run_inference.get_parser(), evaluation_parser()):
        known |= {flag for action in parser._actions for flag in action.option_strings}
    known |= {"--annotations", "--output"}  # of tools.make_lists ava
    named = set(re.findall(r"(?<![\w-])--[a-z_]+", PAGE))
    assert len(named) > 30 and named <= known
