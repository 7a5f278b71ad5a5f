"""The measurements of the explanation: relevance in boxes, influence by distance, on cases with known answers."""

import json

import pytest
import torch

from benchmarks import hidden_attention, relevance_check
from benchmarks.relevance_check import box_coverage, concentration
from explain.influence import by_distance, influence
from explain.scans import scans_of_model
from mamba.mamba_ssm.ops.selective_scan.directions import Order
from models.videomambapro import VideoMambaPro, videomambapro_nano
from tests.test_hidden_attention import random_scan
from tools import make_moving_digits

BOXES = torch.tensor([[0, 0, 16, 16], [8, 4, 40, 16], [17, 30, 64, 64], [5, 5, 6, 6]])


def test_coverage_counts_the_pixels_of_a_box_in_each_patch():
    picture = torch.zeros(4, 64, 64)
    for frame, (left, top, right, bottom) in zip(picture, BOXES.tolist(), strict=True):
        frame[top:bottom, left:right] = 1
    cells = picture.view(4, 4, 16, 4, 16).mean((2, 4))
    torch.testing.assert_close(box_coverage(BOXES, 64, 1, 4), cells)
    torch.testing.assert_close(box_coverage(BOXES, 64, 2, 4), cells.view(2, 2, 4, 4).mean(1))


def test_concentration_of_maps_that_know_nothing_half_and_all():
    coverage = box_coverage(BOXES, 64, 1, 4)[None]
    even = torch.full_like(coverage, 1 / coverage.numel())
    torch.testing.assert_close(concentration(even, coverage), torch.ones(1))
    first = torch.zeros_like(coverage)
    # the first box is the first patch
    first[0, 0, 0, 0] = 1
    torch.testing.assert_close(concentration(first, coverage), 1 / coverage.mean()[None])
    torch.testing.assert_close(concentration((first + even) / 2, coverage), (1 + 1 / coverage.mean()[None]) / 2)


def test_a_diagonal_counts_twice_and_the_mask_leaves_it_once():
    """Type v1 shares steps, B and C between the directions, so without the mask the factor is 2 exactly."""
    torch.manual_seed(0)
    model = VideoMambaPro(img_size=32, patch_size=16, depth=2, embed_dim=32, num_classes=5, num_frames=4)
    for scans in scans_of_model(model.eval(), torch.randn(1, 3, 4, 32, 32)):
        twice = influence(scans, elemental_residual=False, masked=False)[0]
        once = influence(scans, elemental_residual=False, masked=True)[0]
        torch.testing.assert_close(twice.diagonal(), 2 * once.diagonal())
        torch.testing.assert_close(twice - twice.diagonal().diag(), once - once.diagonal().diag())


def test_the_residual_adds_the_ends_and_nothing_else():
    scans = [random_scan(9, order=order) for order in Order]
    without = influence(scans, elemental_residual=False, masked=True)
    added = influence(scans, elemental_residual=True, masked=True) - without
    torch.testing.assert_close(added[..., 1:-1], torch.zeros_like(added[..., 1:-1]))
    assert added[..., 0].abs().max() > 0.01 and added[..., -1].abs().max() > 0.01


def test_means_by_distance():
    matrix = torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert by_distance(matrix).tolist() == [5, 5, 5]
    assert by_distance(torch.tensor([[1.0, 2], [4, 9]])).tolist() == [5, 3]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An output folder like that of the demo, with untrained weights."""
    output = tmp_path_factory.mktemp("run")
    counts = ["--train", "1", "--val", "1", "--test", "3", "--frame_clips", "1", "--images_train", "1"]
    make_moving_digits.main(["--output", str(output / "data"), *counts, "--images_val", "1", "--workers", "1"])
    torch.manual_seed(0)
    model = videomambapro_nano(img_size=64, num_frames=4, num_classes=8, dt_init="mamba")
    flags = dict(data_set="custom", sampling_rate=2, num_frames=4, dt_init="mamba")
    torch.save({"model": model.state_dict(), "args": flags}, output / "checkpoint-best.pth")
    return output


def test_relevance_check_writes_what_it_found(run, capsys):
    assert relevance_check.main([str(run)]) == 0
    found = json.loads((run / "relevance.json").read_text())
    assert found["clips"] == 3 and 0.02 < found["area"] < 0.8
    # no map of whole patches concentrates more than the best
    assert 0 < found["integrated"]["mean"] <= found["best"]["mean"]
    assert f"mean {found['integrated']['mean']:.2f}" in capsys.readouterr().out


def test_data_without_boxes_is_refused_with_the_remedy(run, tmp_path, capsys):
    arguments = [str(tmp_path), "--checkpoint", str(run / "checkpoint-best.pth"), "--data", str(tmp_path)]
    assert relevance_check.main(arguments) == 1
    assert "boxes.json is missing; python -m tools.make_moving_digits" in capsys.readouterr().err


@pytest.mark.slow
def test_hidden_attention_is_drawn_and_counted(run):
    video = str(run / "data/videos/test/00000.mp4")
    assert hidden_attention.main([str(run / "checkpoint-best.pth"), video, "--output", str(run / "figure")]) == 0
    rows = json.loads((run / "figure/hidden_attention.json").read_text())["switched_on"]
    assert rows["neither"]["diagonal"] == pytest.approx(2 * rows["mask"]["diagonal"], rel=1e-4)
    assert rows["residual"]["ends_from_the_middle"] > rows["neither"]["ends_from_the_middle"]
    assert (run / "figure/hidden_attention.png").stat().st_size > 10_000


def test_a_missing_video_is_told(run, tmp_path, capsys):
    arguments = [str(run / "checkpoint-best.pth"), str(tmp_path / "none.mp4"), "--output", str(tmp_path)]
    assert hidden_attention.main(arguments) == 1
    assert "none.mp4" in capsys.readouterr().err
