"""Lists of masked pretraining, with and without labels, and its crops."""

from collections import Counter

import numpy as np
import pytest
import torch

from datasets.annotations import ListFileError
from datasets.arguments import PretrainingSettings
from datasets.lists import ListSettings, find_training_list
from datasets.pretraining import build_pretraining_dataset, read_unlabelled
from datasets.transforms import AugmentationSettings, MultiScaleCrop, video_train_transform


def read(tmp_path, text, **settings):
    (tmp_path / "list.csv").write_text(text)
    records, kind = read_unlabelled(tmp_path / "list.csv", ListSettings(data_root="/r", **settings))
    return kind, [(record.path, record.target, record.line) for record in records]


@pytest.mark.parametrize(
    ("text", "kind", "paths"),
    [
        ("a.mp4\n\nb/c 2.mp4\n", "video", [("/r/a.mp4", 0, 1), ("/r/b/c 2.mp4", 0, 3)]),
        ('"a, b.mp4"\nv_2.avi\n', "video", [("/r/a, b.mp4", 0, 1), ("/r/v_2.avi", 0, 2)]),
        ("\ufeffid_one\r\nid_two\r\n", "video", [("/r/id_one", 0, 1), ("/r/id_two", 0, 2)]),
        ("x/1.JPEG\nx/2.JPEG\n", "image", [("/r/x/1.JPEG", 0, 1), ("/r/x/2.JPEG", 0, 2)]),
        ("a.mp4 3\nb.mp4 1\n", "video", [("/r/a.mp4", 3, 1), ("/r/b.mp4", 1, 2)]),
        ("a.mp4,3\nb.mp4,1\n", "video", [("/r/a.mp4", 3, 1), ("/r/b.mp4", 1, 2)]),
        ("d/a 48 3\nd/b 32 0\n", "frames", [("/r/d/a", 3, 1), ("/r/d/b", 0, 2)]),
    ],
)
def test_paths_are_read_with_and_without_labels(tmp_path, text, kind, paths):
    assert read(tmp_path, text) == (kind, paths)


def test_a_forgotten_label_is_named_by_line(tmp_path):
    with pytest.raises(ListFileError, match="line 2"):
        read(tmp_path, "a.mp4 3\nb.mp4\n")
    with pytest.raises(ListFileError, match="is empty"):
        read(tmp_path, "\n")
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        read_unlabelled(tmp_path / "nowhere.csv", ListSettings())


def test_data_path_may_be_the_list_itself(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4\n")
    assert find_training_list(ListSettings(data_path=str(tmp_path / "train.csv"))) == tmp_path / "train.csv"
    assert find_training_list(ListSettings(data_path=str(tmp_path))) == tmp_path / "train.csv"
    with pytest.raises(FileNotFoundError, match="--train_list FILE"):
        find_training_list(ListSettings())


def test_a_probe_list_of_one_video_is_refused_before_training(tmp_path):
    (tmp_path / "probe.csv").write_text("a.mp4 0\n")
    with pytest.raises(ValueError, match="probe.csv has one video; --probe_list needs two at least"):
        build_pretraining_dataset("validation", PretrainingSettings(probe_list=str(tmp_path / "probe.csv")))


def boxes_of(height, width, size, draws=3000):
    rng = np.random.default_rng(0)
    return Counter(MultiScaleCrop(size).draw_box(height, width, rng) for _ in range(draws))


def test_crops_have_a_few_sizes_and_places():
    boxes = boxes_of(240, 320, 224)
    sides = [240, 210, 180, 158]  # shares 1, .875, .75 and .66 of the short side
    assert {box[2:] for box in boxes} == {(sides[i], sides[j]) for i in range(4) for j in range(4) if abs(i - j) <= 1}
    places = {box[:2] for box in boxes if box[2:] == (180, 210)}
    down, across = (240 - 180) // 4, (320 - 210) // 4
    inner = {(1, 1), (1, 3), (3, 1), (3, 3)}
    assert places == {(i * down, j * across) for i, j in inner | {(i, j) for i in (0, 2, 4) for j in (0, 2, 4)}}
    assert min(boxes.values()) > 3, "all of them are drawn"


def test_a_side_near_the_wanted_one_is_not_resized_and_no_box_leaves_the_frame():
    assert {box[2] for box in boxes_of(256, 340, 224)} == {256, 224, 192, 168}  # 0.875 of 256 is 224
    assert (224, 224) in {box[2:] for box in boxes_of(226, 300, 224)}
    for shape, size in (((223, 400), 224), ((90, 60), (128, 224)), ((64, 64), 64)):
        for top, left, height, width in boxes_of(*shape, size, 500):
            assert top >= 0 and top + height <= shape[0] and left >= 0 and left + width <= shape[1]


def test_the_training_pipeline_takes_the_crop_that_is_asked_for():
    frames = np.zeros((2, 60, 80, 3), np.uint8)
    settings = AugmentationSettings(crop="multi_scale", aa="none", reprob=0, hflip=0.5)
    transform = video_train_transform(32, settings)
    assert isinstance(transform.steps[0], MultiScaleCrop)
    assert transform(frames, np.random.default_rng(0)).shape == (1, 3, 2, 32, 32)
    picture = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 3, 60, 80), dtype=np.uint8))
    rng = np.random.default_rng(2)
    top, left, height, width = MultiScaleCrop(32).draw_box(60, 80, rng)
    cropped = MultiScaleCrop(32)(picture, np.random.default_rng(2)).float()
    box = picture[..., top : top + height, left : left + width].float()
    expected = torch.nn.functional.interpolate(box, (32, 32), mode="bilinear", antialias=True)
    assert (cropped - expected).abs().max() <= 1
