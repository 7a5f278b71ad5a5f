"""Scenes of moving digits: the annotations say what the pictures show."""

import numpy as np
import pytest

from datasets.detection.arguments import DetectionSettings
from datasets.detection.build import build_detection_dataset
from datasets.preparation.digit_scenes import DIGIT_ID, detect, draw_scene
from datasets.preparation.moving_digits import CLASSES
from datasets.readers import VideoFile
from tools.make_moving_digits import main, parse_arguments

FRAMES, SIZE = 8, 96
FLAGS = ["--digits_per_clip", "1-3", "--size", str(SIZE), "--train", "40", "--val", "12", "--test", "12"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    output = tmp_path_factory.mktemp("scenes")
    main(["--output", str(output), "--seed", "3", "--workers", "1", *FLAGS])
    return output


def settings_of(output, **settings):
    small = dict(num_frames=FRAMES, sampling_rate=1, input_size=SIZE, short_side_size=SIZE, train_short_side=(96, 112))
    where = dict(data_path=str(output), data_root=str(output / "videos"), fps=FRAMES // 2, start_second=0)
    return DetectionSettings(**small, **where, num_workers=0, read_timeout=0, **settings)


def test_boxes_hold_all_digits_of_the_middle_frame_and_touch_them():
    rng = np.random.default_rng(0)
    counts = set()
    for _ in range(40):
        scene = draw_scene("train", (1, 3), FRAMES, SIZE, rng)
        counts.add(len(scene.boxes))
        # a digit is brighter than any background, so a threshold finds it without knowing how it was drawn
        bright = scene.frames[FRAMES // 2].min(-1) > 125
        covered = np.zeros_like(bright)
        for x1, y1, x2, y2 in np.rint(scene.boxes * SIZE).astype(int):
            covered[y1:y2, x1:x2] = True
            rows, columns = np.nonzero(bright[y1:y2, x1:x2])
            assert np.ptp(rows) >= (y2 - y1) / 2 and np.ptp(columns) >= (x2 - x1) / 4
        assert not (bright & ~covered).any()
        assert len(scene.boxes) == len(scene.motions) == len(scene.numbers)
    assert counts == {1, 2, 3}


def test_a_digit_moves_as_its_class_says():
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(60):
        scene = draw_scene("val", (1, 1), FRAMES, SIZE, rng)
        bright = scene.frames.min(-1) > 125
        y, x = (np.array([np.nonzero(frame)[axis].mean() for frame in bright]) for axis in (0, 1))
        dx, dy, growth = np.diff(x), np.diff(y), bright[-1].sum() / bright[0].sum()
        if growth > 1.8 or growth < 1 / 1.8:
            motion = "approaching" if growth > 1 else "receding"
        elif np.abs(np.sum(dx[:-1] * dy[1:] - dy[:-1] * dx[1:])) > 20:
            # y points down, so a positive cross product of successive steps is clockwise
            motion = "clockwise" if np.sum(dx[:-1] * dy[1:] - dy[:-1] * dx[1:]) > 0 else "anticlockwise"
        elif np.abs(dx).sum() > np.abs(dy).sum():
            motion = "right" if dx.sum() > 0 else "left"
        else:
            motion = "down" if dy.sum() > 0 else "up"
        assert motion == CLASSES[scene.motions[0]]
        seen.add(motion)
    assert seen == set(CLASSES)


def test_detected_boxes_are_near_the_digits_and_the_false_one_is_not():
    rng = np.random.default_rng(2)
    boxes = np.array([[0.1, 0.1, 0.4, 0.4], [0.5, 0.6, 0.8, 0.9]])
    for _ in range(20):
        found, scores = detect(boxes, rng)
        assert found.shape == (3, 4) and scores.argmin() == 2
        assert np.abs(found[:2] - boxes).max() < 0.3 * 0.3
        centre = (found[2, :2] + found[2, 2:]) / 2
        assert not np.any(np.all(np.abs(centre - (boxes[:, :2] + boxes[:, 2:]) / 2) < 0.1, axis=1))


def test_the_files_are_a_data_set_for_detection(written):
    excluded = {line.split(",")[0] for line in (written / "exclusions.csv").read_text().splitlines()}
    for mode, split, count in (("train", "train", 40), ("validation", "val", 12), ("test", "test", 12)):
        dataset = build_detection_dataset(mode, settings_of(written))
        names = {f"{split}_{i:05}" for i in range(count)}
        assert {record.video for record in dataset.records} == names - excluded
        assert dataset.label_map.ids == (*range(1, 9), *range(DIGIT_ID, DIGIT_ID + 10))
        sample = dataset[0]
        assert sample.clips.shape == (1, 3, FRAMES, SIZE, SIZE) and not sample.unreadable
    # every digit has a motion and a number
    assert all(len(ids) == 2 and ids[0] <= 8 and ids[1] >= 100 for r in dataset.records for ids in r.target["labels"])
    assert all(len(record.boxes) >= len(record.target["boxes"]) for record in dataset.records)


def test_the_annotated_second_is_the_middle_frame(written):
    record = build_detection_dataset("test", settings_of(written, eval_boxes="ground_truth")).records[0]
    frames = VideoFile(record.path).read(range(FRAMES))
    bright = frames.min(-1) > 125
    covered = np.zeros((SIZE, SIZE), bool)
    for x1, y1, x2, y2 in np.rint(record.boxes * SIZE).astype(int):
        covered[y1:y2, x1:x2] = True
    outside = [int((frame & ~covered).sum()) for frame in bright]
    assert outside[FRAMES // 2] == min(outside) < max(outside)


def test_the_same_seed_gives_the_same_files_and_work_is_not_repeated(written, tmp_path, capsys):
    main(["--output", str(tmp_path), "--seed", "3", "--workers", "1", *FLAGS])
    for name in ("train.csv", "test_predicted_boxes.csv", "videos/val_00003.mp4"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
    main(["--output", str(tmp_path), "--seed", "3", *FLAGS])
    assert "already complete" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["0-2", "3-1", "x", "1-9", "-2"])
def test_impossible_numbers_of_digits_are_refused(text, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--output", "x", f"--digits_per_clip={text}"])
    assert "--digits_per_clip" in capsys.readouterr().err.splitlines()[-1]
