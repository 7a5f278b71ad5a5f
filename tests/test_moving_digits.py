"""The moving digits: the order of frames tells the class and no single frame does; the files are what they say."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.stats import ks_2samp

from datasets.annotations import find_absent, read_list
from datasets.preparation.moving_digits import CLASSES, draw_clip, draw_trajectory, split_digits
from datasets.readers import FrameFolder, VideoFile
from tools.make_moving_digits import main, parse_arguments

FRAMES, SIZE = 8, 64
SMALL = [
    "--train",
    "17",
    "--val",
    "8",
    "--test",
    "8",
    "--frame_clips",
    "5",
    "--images_train",
    "12",
    "--images_val",
    "6",
]


def trajectories(label, count=1500, seed=0):
    """(count, FRAMES, 3): x, y, side."""
    rng = np.random.default_rng((seed, label))
    return np.stack([draw_trajectory(label, FRAMES, SIZE, rng) for _ in range(count)])


def classify(path):
    """Tell the class of a trajectory (FRAMES, 3) from its differences alone, unlike how it was drawn."""
    dx, dy = np.diff(path[:, 0]), np.diff(path[:, 1])
    side = np.diff(path[:, 2])
    if np.abs(side).max() > 0.01:
        return CLASSES.index("approaching" if np.median(side) > 0 else "receding")
    # the cross product of successive steps; y points down, so a positive one is clockwise
    turn = np.sum(dx[:-1] * dy[1:] - dy[:-1] * dx[1:])
    if abs(turn) > 1e-6:
        return CLASSES.index("clockwise" if turn > 0 else "anticlockwise")
    if np.abs(dx).max() > np.abs(dy).max():
        return CLASSES.index("right" if dx[0] > 0 else "left")
    return CLASSES.index("down" if dy[0] > 0 else "up")


@pytest.mark.parametrize("label", range(8))
def test_the_order_of_frames_tells_the_class(label):
    paths = trajectories(label, 300)
    assert {classify(path) for path in paths} == {label}
    # played backwards it is the other class of the pair
    assert {classify(path[::-1]) for path in paths} == {label ^ 1}


@pytest.mark.parametrize("pair", range(4))
def test_no_single_frame_tells_the_class(pair):
    """A frame drawn from anywhere in its clip looks alike for both classes of a pair."""
    rng = np.random.default_rng(5)
    first, second = (
        paths[np.arange(len(paths)), rng.integers(FRAMES, size=len(paths))]
        for paths in (trajectories(2 * pair, seed=1), trajectories(2 * pair + 1, seed=2))
    )
    for column in range(3):
        assert ks_2samp(first[:, column], second[:, column]).pvalue > 1e-3
    # nor do two coordinates together: their joint counts on a grid agree
    cells = [np.histogram2d(p[:, 0], p[:, 1], bins=4, range=[[0, SIZE]] * 2)[0] for p in (first, second)]
    both = cells[0] + cells[1]
    chi_squared = ((cells[0] - cells[1]) ** 2 / np.maximum(both, 1)).sum()
    # 15 degrees of freedom: above 39.7 once in two thousand
    assert chi_squared < 39.7


def test_a_pair_has_the_frames_of_each_other_backwards():
    for label in range(0, 8, 2):
        one, other = trajectories(label, seed=3), trajectories(label + 1, seed=4)[:, ::-1]
        for feature in (lambda p: np.diff(p, axis=1)[:, 2], lambda p: np.abs(np.diff(p, axis=1)).sum(1)):
            for column in range(3):
                found = ks_2samp(feature(one)[:, column], feature(other)[:, column])
                assert found.pvalue > 1e-3


def test_the_check_of_single_frames_can_fail():
    # a little more of one side of the picture in one class would be found
    biased = [np.random.default_rng(i).uniform(*bounds, 1500) for i, bounds in enumerate([(0, 60), (4, 64)])]
    assert ks_2samp(*biased).pvalue < 1e-3


def test_digits_move_by_the_stated_number_of_pixels():
    for label in range(8):
        steps = np.abs(np.diff(trajectories(label, 200), axis=1))
        length = np.hypot(steps[..., 0], steps[..., 1]) + steps[..., 2]
        # chords of a circle are a little shorter than its arc
        assert length.min() > 3.4 and length.max() < 6.01


def test_digits_stay_in_the_picture_however_long_the_clip():
    rng = np.random.default_rng(0)
    for label in range(8):
        paths = np.stack([draw_trajectory(label, 20, SIZE, rng) for _ in range(100)])
        assert paths[..., :2].min() >= 8 and paths[..., :2].max() <= SIZE - 8
        assert paths[..., 2].min() >= 12 and paths[..., 2].max() <= 56


def test_the_background_stays_and_only_the_digit_moves():
    digits, _ = split_digits("train")
    clip = draw_clip(0, digits, FRAMES, SIZE, np.random.default_rng(0))[0].astype(int)
    assert clip.shape == (FRAMES, SIZE, SIZE, 3)
    changed = np.abs(np.diff(clip, axis=0)).max(-1) > 0
    assert changed.any(axis=(1, 2)).all()
    # above and below the rows a digit of at most 32 pixels passes, nothing changes
    assert changed.any(axis=(0, 2)).sum() <= 32


def test_boxes_hold_all_that_moves_and_touch_it(written):
    boxes = json.loads((written / "boxes.json").read_text())
    records, _ = read_list(written / "videos" / "train.csv")
    assert {record.path for record in records} < boxes.keys() and len(boxes) == 17 + 8 + 8
    for index in range(8):
        rng = np.random.default_rng((3, 0, index))
        frames, drawn = draw_clip(index, split_digits("train")[0], FRAMES, SIZE, rng)
        written_boxes = boxes[f"videos/train/{index:05}.mp4"]
        assert written_boxes == [list(box) for box in drawn] and len(written_boxes) == FRAMES
        # a digit is brighter than any background, so thresholds find it without knowing how it was drawn
        for frame, (left, top, right, bottom) in zip(frames, written_boxes, strict=True):
            rows, columns = np.nonzero(frame.min(-1) > 125)
            assert left <= columns.min() < columns.max() < right and top <= rows.min() < rows.max() < bottom
            # faint borders of the strokes stay below the threshold
            assert max(columns.min() - left, right - 1 - columns.max()) <= (right - left) / 3
            assert max(rows.min() - top, bottom - 1 - rows.max()) <= (bottom - top) / 3


def test_splits_share_no_digit():
    splits = {name: split_digits(name) for name in ("train", "val", "test")}
    assert sum(len(pictures) for pictures, _ in splits.values()) == 1797
    for pictures, numbers in splits.values():
        assert pictures.shape[1:] == (8, 8) and len(pictures) == len(numbers) and set(numbers) == set(range(10))
    # the data set holds no two equal images, so sets of bytes tell images apart
    seen = [{picture.tobytes() for picture in pictures} for pictures, _ in splits.values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 1797


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    output = tmp_path_factory.mktemp("digits")
    main(["--output", str(output), "--seed", "3", "--workers", "2", *SMALL])
    return output


def test_lists_name_the_files(written):
    counts = {}
    for kind, splits in (("videos", 3), ("frames", 3), ("images", 2)):
        for split in ("train", "val", "test")[:splits]:
            records, found = read_list(written / kind / f"{split}.csv", data_root=str(written))
            assert found == {"videos": "video", "frames": "frames", "images": "image"}[kind]
            assert find_absent(records) == []
            assert max(record.target for record in records) < (10 if kind == "images" else 8)
            counts[kind, split] = len(records)
    assert list(counts.values()) == [17, 8, 8, 5, 5, 5, 12, 6]
    assert (written / "labels.txt").read_text().split() == list(CLASSES)
    records, _ = read_list(written / "videos" / "train.csv")
    assert {record.target for record in records} == set(range(8))


def test_files_show_the_drawn_clips(written):
    for index in (0, 4):
        rng = np.random.default_rng((3, 0, index))
        drawn, _ = draw_clip(index, split_digits("train")[0], FRAMES, SIZE, rng)
        video = VideoFile(str(written / f"videos/train/{index:05}.mp4"))
        assert len(video) == FRAMES
        folder = FrameFolder(str(written / f"frames/train/{index:05}"), FRAMES)
        for reader in (video, folder):
            difference = np.abs(reader.read(range(FRAMES)).astype(int) - drawn)
            # colours are stored at half resolution; another clip or frame would be off by tens
            assert difference.mean() < 8


def test_images_show_digits_within_the_picture(written):
    records, _ = read_list(written / "images" / "train.csv", data_root=str(written))
    for record in records:
        with Image.open(record.path) as image:
            assert image.size == (64, 64) and image.mode == "RGB"
            assert np.asarray(image).max() > 150


def test_the_same_seed_gives_the_same_files_and_work_is_not_repeated(written, tmp_path, capsys):
    again, other = tmp_path / "again", tmp_path / "other"
    main(["--output", str(again), "--seed", "3", "--workers", "1", *SMALL])
    main(["--output", str(other), "--seed", "4", "--workers", "1", *SMALL])
    for name in ("videos/test/00003.mp4", "frames/val/00001/img_00008.jpg", "images/train/00002.jpg"):
        assert (again / name).read_bytes() == (written / name).read_bytes()
        assert (other / name).read_bytes() != (written / name).read_bytes()
    capsys.readouterr()
    before = (again / "videos/test/00003.mp4").stat().st_mtime_ns
    main(["--output", str(again), "--seed", "3", *SMALL])
    assert "already complete" in capsys.readouterr().out
    assert (again / "videos/test/00003.mp4").stat().st_mtime_ns == before
    (again / "settings.json").unlink()
    main(["--output", str(again), "--seed", "3", "--workers", "1", *SMALL])
    assert (again / "videos/test/00003.mp4").stat().st_mtime_ns != before


@pytest.mark.parametrize("flags", [["--size", "33"], ["--num_frames", "1"], ["--test", "0"]])
def test_impossible_settings_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["--output", "x", *flags])
    assert ("at least" if flags[0] == "--test" else flags[0]) in capsys.readouterr().err.splitlines()[-1]
