"""Clips that are not square: from the flag through training, resuming and tests to inference and export."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run_script
from inference_files import write_moving_video
from PIL import Image
from test_third_objective import start

from datasets.arguments import DataSettings
from datasets.build import build_dataset
from datasets.transforms import (
    RandomResizedCrop,
    image_eval_transform,
    video_test_transform,
    video_validation_transform,
)
from engines.configuration import parse_arguments
from engines.dry_run import dry_run
from engines.early_check import check_command_line
from engines.run import run_task
from inference import load_predictor
from inference.heatmaps import HeatTrack, spread
from models.checkpoint import CheckpointError, load_checkpoint
from models.config import ModelConfig
from models.describe import describe_checkpoint
from models.videomambapro import VideoMambaPro
from run_class_finetuning import TASK, get_parser
from tools import export_checks, export_file
from tools.checkpoint_file import inspect

ROOT = Path(__file__).parent.parent
HEIGHT, WIDTH = 32, 48
TINY = dict(depth=2, embed_dim=32, num_classes=3, num_frames=4)
FLAGS = f"""
    --model videomambapro_nano --depth 2 --embed_dim 32 --backend portable --device cpu --no_bf16 --seed 7
    --num_frames 4 --sampling_rate 2 --input_size {HEIGHT} {WIDTH} --batch_size 2 --num_sample 1 --num_workers 0
    --read_timeout 0 --test_num_segment 1 --test_num_crop 3 --warmup_epochs 0 --lr 0.01 --gpu_transforms
    --no_test_best
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i in range(3):
        write_moving_video(folder / f"{i}.mp4", 16, seed=i, height=64, width=160)
    for split in ("train", "val", "test"):
        (folder / f"{split}.csv").write_text("".join(f"{i}.mp4 {i}\n" for i in range(3)))
    return folder


def parsed(data, output, *more):
    where = ["--data_path", str(data), "--data_root", str(data), "--output_dir", str(output)]
    return parse_arguments(get_parser(), [*shlex.split(FLAGS), *where, *more], script=TASK.script)


def _train_resume_and_test(_, data, folder, __):
    for epochs in ("1", "2"):
        run_task(TASK, parsed(data, folder, "--epochs", epochs), lambda *_: None)
    best = str(folder / "checkpoint-latest.pth")
    run_task(TASK, parsed(data, folder / "eval", "--eval", "--finetune", best), lambda *_: None)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a run of one epoch that was resumed for a second one, with its test repeated in "eval"."""
    folder = tmp_path_factory.mktemp("run")
    assert start(_train_resume_and_test, 1, folder, data)
    return folder


def test_a_run_trains_resumes_and_is_tested(trained):
    epochs = [json.loads(line) for line in (trained / "log.txt").read_text().splitlines()]
    assert [row["epoch"] for row in epochs if "train_loss" in row] == [0, 1]
    checkpoint = trained / "checkpoint-latest.pth"
    assert describe_checkpoint(checkpoint).config["img_size"] == [HEIGHT, WIDTH]
    assert re.search(rf"img_size +{HEIGHT} {WIDTH}\n", inspect(checkpoint))
    assert torch.load(checkpoint, weights_only=True)["model"]["pos_embed"].shape[1] == 1 + 2 * 3
    first, again = (json.loads((folder / "results.json").read_text()) for folder in (trained, trained / "eval"))
    assert len(first["predictions"]) == 3 and again["predictions"] == first["predictions"]


def test_a_dry_run_counts_the_tokens_of_the_frames(data, tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert dry_run(TASK, parsed(data, tmp_path, "--dry_run")) == 0
    assert f"4 frames of {HEIGHT} x {WIDTH}, 25 tokens" in caplog.text
    assert f"--input_size {HEIGHT} {WIDTH} " in caplog.text
    assert f"shape of the first clips: (1, 3, 4, {HEIGHT}, {WIDTH})" in caplog.text


def test_the_file_says_the_size_to_a_test_and_frames_turned_round_are_refused(trained, data, tmp_path, caplog, capsys):
    checkpoint = str(trained / "checkpoint-latest.pth")
    words = ["--eval", "--finetune", checkpoint, "--data_path", str(data), "--device", "cpu"]
    with caplog.at_level("INFO"):
        assert parse_arguments(get_parser(), words, script=TASK.script).input_size == [HEIGHT, WIDTH]
    assert f"--input_size {HEIGHT} {WIDTH}" in caplog.text
    with pytest.raises(ValueError, match=f"--input_size {WIDTH} {HEIGHT}, the file has {HEIGHT} {WIDTH}"):
        parse_arguments(get_parser(), [*words, "--input_size", str(WIDTH), str(HEIGHT)], script=TASK.script)
    # as many positions, in other places: the shapes alone would let this pass
    turned = parsed(data, tmp_path, "--epochs", "3", "--input_size", str(WIDTH), str(HEIGHT), "--resume", checkpoint)
    with pytest.raises(SystemExit):
        run_task(TASK, turned, lambda *_: None)
    assert f"its frames have --input_size {HEIGHT} {WIDTH}, those of this run" in capsys.readouterr().err


def test_inference_draws_a_heat_map_of_the_grid(trained, data, tmp_path):
    checkpoint = trained / "checkpoint-latest.pth"
    picture = tmp_path / "heat.png"
    words = ("--checkpoint", checkpoint, data / "0.mp4", "--heatmap", picture, "--device", "cpu")
    status, printed = run_script("run_inference.py", *words, folder=tmp_path)
    assert status == 0, printed[-3000:]
    assert Image.open(picture).width > 100
    predictor = load_predictor(checkpoint, device="cpu")
    assert predictor.plan.clip_shape == (3, 4, HEIGHT, WIDTH)


def test_the_export_says_how_to_feed_it(trained, data, tmp_path):
    for name in export_checks.ONNX_PACKAGES:
        pytest.importorskip(name, reason=f"{name} is optional")
    checkpoint = trained / "checkpoint-latest.pth"
    export_file.export(checkpoint, tmp_path / "m.onnx")
    document = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n# classify\.py\n(.*?)```", document, flags=re.S)
    (tmp_path / "classify.py").write_text(script)
    predictor = load_predictor(checkpoint, device="cpu")
    # wider than the clips, and narrower
    for size in ((64, 160), (64, 48)):
        video = write_moving_video(tmp_path / f"{size[0]}.mp4", 16, height=size[0], width=size[1])
        words = [sys.executable, tmp_path / "classify.py", tmp_path / "m.onnx", video]
        printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        expected = predictor.predict(str(video)).probabilities
        for line in printed.splitlines():
            probability, name = line.split(" ", 1)
            label = predictor.label_names.index(name)
            assert float(probability) == pytest.approx(expected[label], abs=3e-3)


def test_the_flag_a_recipe_and_saved_settings_mean_the_same(tmp_path):
    def size_of(*words):
        return parse_arguments(get_parser(), [*words, "--device", "cpu"], script=TASK.script).input_size

    assert size_of("--input_size", "128", "224") == [128, 224]
    assert size_of("--img_size", "128", "224") == [128, 224]
    assert size_of("--input_size", "96") == size_of("--input_size", "96", "96") == 96
    for content, size in (("[128, 224]", [128, 224]), ("96", 96)):
        (tmp_path / "c.yaml").write_text(f"input_size: {content}\n")
        assert size_of("--config", str(tmp_path / "c.yaml")) == size
    assert ModelConfig(img_size=(32, 48)) == ModelConfig(img_size=[32, 48]) != ModelConfig(img_size=[48, 32])
    assert ModelConfig(img_size=(32, 32)).values()["img_size"] == 32


def test_what_no_clip_can_have_is_refused_by_name(capsys):
    for wrong in ((32, 0), (32, 48, 64), "wide"):
        with pytest.raises(ValueError, match="img_size"):
            ModelConfig(img_size=wrong)
    with pytest.raises(ValueError, match="img_size 32 50 must be a multiple of patch_size 16"):
        VideoMambaPro(img_size=(32, 50), **TINY)
    with pytest.raises(SystemExit):
        check_command_line("run_action_detection.py", ["--input_size", "128", "224"], classifies=False)
    assert "--input_size 128 224: the training clips of a detector are square" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (16, 80), 32])
@pytest.mark.parametrize("frame", [(64, 64), (40, 100), (100, 40), (33, 49), (31, 47)])
def test_evaluation_crops_keep_the_aspect_ratio_and_cover_the_clip(size, frame):
    """The pixels hold their own place, so the scale down and across can be read from every crop."""
    high, wide = (size, size) if isinstance(size, int) else size
    down, across = np.meshgrid(np.arange(frame[0]), np.arange(frame[1]), indexing="ij")
    picture = np.stack([2 * down, 2 * across, 0 * down], -1).astype(np.uint8)[None]
    scale = max(high / frame[0], wide / frame[1])
    for transform, crops in (
        (video_validation_transform(size, min(high, wide)), 1),
        (video_test_transform(size, min(high, wide), 3), 3),
    ):
        clips, _ = transform.prepare(picture, np.random.default_rng(0))
        assert clips.shape == (crops, 3, 1, high, wide)
        for clip in clips.float():
            for axis, length in ((0, high), (1, wide)):
                edge = clip[axis, 0].mean(1 - axis)
                slope = (edge[-3] - edge[2]) / (length - 5) / 2
                assert slope == pytest.approx(1 / scale, rel=0.1)
    # the first and the last crop together see both ends of the longer side
    assert clips[0, :2].min() <= 2 and clips[-1, :2].amax((1, 2, 3)).max() >= 2 * max(frame) - 2 / scale - 6


def test_a_longer_short_side_leaves_a_margin_around_the_crop():
    down, across = np.meshgrid(np.arange(80), np.arange(120), indexing="ij")
    picture = np.stack([down, across, 0 * down], -1).astype(np.uint8)[None]
    for transform in (video_validation_transform((32, 48), 40), image_eval_transform((32, 48), 0.8)):
        (clip,), _ = transform.prepare(picture, np.random.default_rng(0))
        assert clip.shape == (3, 1, 32, 48)
        # the frame becomes 40 x 60, and the crop starts 4 rows and 6 columns in
        np.testing.assert_allclose([clip[0, 0, 0, 0], clip[1, 0, 0, 0]], [8.5, 12.5], atol=1)
        np.testing.assert_allclose([clip[0, 0, -1, -1], clip[1, 0, -1, -1]], [70.5, 106.5], atol=1)
    with pytest.raises(ValueError, match="--short_side_size 24 is smaller than --input_size 32 48"):
        video_validation_transform((32, 48), 24)


def test_training_crops_are_stretched_no_more_than_square_ones():
    crop = RandomResizedCrop((32, 64))
    rng = np.random.default_rng(0)
    boxes = np.array([crop.draw_box(400, 800, rng) for _ in range(2000)])
    stretch = np.log((boxes[:, 3] / 64) / (boxes[:, 2] / 32))
    assert np.abs(stretch).max() < np.log(4 / 3) + 0.05 and abs(stretch.mean()) < 0.03
    assert crop(torch.zeros(2, 3, 50, 50, dtype=torch.uint8), rng).shape == (2, 3, 32, 64)


def test_data_sets_give_clips_of_the_size_from_python_too(data):
    settings = DataSettings(data_path=str(data), data_root=str(data), input_size=(HEIGHT, WIDTH), read_timeout=0)
    assert settings.short_side == HEIGHT
    for mode in ("train", "validation", "test"):
        dataset = build_dataset(mode, settings)
        assert dataset.plan.clip_shape[2:] == (HEIGHT, WIDTH)
        sample = dataset[0]
        assert sample.clips.shape[-2:] == (HEIGHT, WIDTH)


def test_positions_move_to_other_grids_with_their_places(tmp_path):
    """2 x 8 and 4 x 4 patches are as many, so equal shapes are no reason to take them as they are."""
    torch.manual_seed(0)
    wide = VideoMambaPro(img_size=(32, 128), **TINY)
    ramp = torch.arange(8.0).expand(2, 8).reshape(16, 1).expand(16, 32)
    with torch.no_grad():
        wide.pos_embed[0, 1:] = ramp
    path = tmp_path / "wide.pth"
    torch.save({"model": wide.state_dict(), "model_config": wide.config.values()}, path)
    again = VideoMambaPro(img_size=(32, 128), **TINY)
    load_checkpoint(again, path)
    assert torch.equal(again.pos_embed, wide.pos_embed)
    square = VideoMambaPro(img_size=64, **TINY)
    report = load_checkpoint(square, path)
    assert report.names("interpolated") == ["pos_embed"]
    rows = square.pos_embed[0, 1:, 0].detach().view(4, 4)
    assert (rows - rows[0]).abs().max() < 1e-5 and bool((rows[:, 1:] > rows[:, :-1] + 1).all())


def test_a_file_that_does_not_record_its_grid_is_not_guessed(tmp_path):
    wide = VideoMambaPro(img_size=(32, 48), **TINY)
    path = tmp_path / "bare.pth"
    torch.save(wide.state_dict(), path)
    assert "img_size" not in describe_checkpoint(path).config
    with pytest.raises(CheckpointError, match="6 spatial positions and does not record their rows and columns"):
        load_checkpoint(VideoMambaPro(img_size=64, **TINY), path)
    report = load_checkpoint(VideoMambaPro(img_size=(32, 48), **TINY), path)
    assert report.rows["pos_embed"][1].endswith("taken as 2 x 3")


@pytest.mark.parametrize(("rows", "columns"), [(2, 4), (4, 2)])
def test_heat_lies_where_the_crops_of_that_shape_are(rows, columns):
    for height, width in ((120, 400), (400, 120), (120, 240)):
        one = spread(np.ones((1, rows, columns)), height, width)
        unit = min(height / rows, width / columns)
        seen = np.argwhere(one > 0.5)
        extent = seen.max(0) - seen.min(0) + 1
        np.testing.assert_allclose(extent, (unit * rows, unit * columns), atol=1)
        np.testing.assert_allclose(seen.mean(0), ((height - 1) / 2, (width - 1) / 2), atol=1)
        three = spread(np.ones((3, rows, columns)), height, width) > 0.5
        assert three.mean() == pytest.approx(min(1, 3 * unit**2 * rows * columns / (height * width)), abs=0.02)
    track = HeatTrack(np.array([0.0]), np.array([0]), np.ones((1, 1, rows, columns), dtype=np.float32))
    assert track.overlay(np.full((60, 200, 3), 100, dtype=np.uint8), 0).shape == (60, 200, 3)
