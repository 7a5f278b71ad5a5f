"""The action detector: what it pools, how it is trained layer by layer, and what its checkpoints bring back."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from engines.optim import layer_scales, no_weight_decay_names
from models.arguments import ModelSettings
from models.build import build_described, build_model
from models.checkpoint import load_checkpoint
from models.checkpoint_file import CheckpointError
from models.describe import describe_checkpoint
from models.detection import BINS, ActionDetector
from models.videomambapro import VideoMambaPro
from tools.checkpoint_file import convert, inspect

CLASSES, SIDE, FRAMES, PATCH = 6, 32, 4, 8
SIZES = dict(img_size=SIDE, num_frames=FRAMES, patch_size=PATCH, embed_dim=32, depth=2, backend="portable")
BOXES = torch.tensor([[0.0, 0, 16, 16], [3, 5, 30, 31], [10, 20, 12, 21]])


def detector(time_pool="mean", **sizes):
    torch.manual_seed(0)
    model = ActionDetector(VideoMambaPro(num_classes=0, drop_path_rate=0.0, **SIZES | sizes), CLASSES, time_pool)
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


def with_maps(model, maps, monkeypatch):
    """Let the backbone give these maps (b, t, d, h, w) for whatever clips."""
    tokens = maps.permute(0, 1, 3, 4, 2).flatten(1, 3)
    monkeypatch.setattr(model.backbone, "forward_tokens", lambda _: F.pad(tokens, (0, 0, 1, 0)))


def test_a_ramp_is_pooled_where_the_pixels_are(monkeypatch):
    model = detector()
    rows = columns = SIDE // PATCH
    centres = (torch.arange(columns) + 0.5) * PATCH  # pixels
    across = centres.expand(rows, columns)
    ramps = torch.stack([across, across.T, SIDE - across, SIDE - across.T])
    with_maps(model, F.pad(ramps, (0, 0, 0, 0, 0, 28)).expand(1, FRAMES, -1, -1, -1), monkeypatch)
    x1, y1, x2, y2 = box = [6.0, 9.0, 20.0, 27.0]
    found = model.box_features(torch.zeros(1, 3, FRAMES, SIDE, SIDE), [torch.tensor([box])])[0, :4]
    half_x, half_y = (x2 - x1) / BINS / 2, (y2 - y1) / BINS / 2  # to the centre of the outermost bin
    expected = torch.tensor([x2 - half_x, y2 - half_y, SIDE - x1 - half_x, SIDE - y1 - half_y])
    torch.testing.assert_close(found, expected)


def test_a_box_of_the_whole_picture_finds_the_largest_feature(monkeypatch):
    model = detector()
    maps = torch.zeros(1, FRAMES, 32, 7, 7)  # as many patches as bins: a bin is a patch
    maps[0, :, torch.arange(32), torch.arange(32) % 7, torch.arange(32) * 3 % 7] = torch.rand(32)
    with_maps(model, maps, monkeypatch)
    side = 7 * PATCH
    found = model.box_features(torch.zeros(1, 3, FRAMES, side, side), [torch.tensor([[0.0, 0, side, side]])])
    torch.testing.assert_close(found, maps.mean(1).amax((2, 3)))


@pytest.mark.parametrize("time_pool", ["mean", "concat"])
def test_the_times_of_a_box(time_pool, monkeypatch):
    model = detector(time_pool)
    maps = torch.randn(2, FRAMES, 32, 4, 4)
    with_maps(model, maps, monkeypatch)
    boxes = [BOXES[:2], BOXES[2:]]
    found = model.box_features(torch.zeros(2, 3, FRAMES, SIDE, SIDE), boxes)
    if time_pool == "mean":
        pooled = roi_align(maps.mean(1), boxes, BINS, 1 / PATCH, aligned=True).amax((2, 3))
        torch.testing.assert_close(found, pooled)
    for time in range(FRAMES if time_pool == "concat" else 0):
        pooled = roi_align(maps[:, time], boxes, BINS, 1 / PATCH, aligned=True).amax((2, 3))
        torch.testing.assert_close(found[:, 32 * time : 32 * (time + 1)], pooled)


@pytest.mark.parametrize("time_pool", ["mean", "concat"])
def test_scores_of_a_clip_do_not_depend_on_its_batch(time_pool):
    model = detector(time_pool)
    clips = torch.randn(3, 3, FRAMES, 24, 40)
    boxes = [BOXES[:2], BOXES[:0], BOXES]
    with torch.no_grad():
        together = model(clips, boxes)
        alone = [model(clip[None], [of_clip]) for clip, of_clip in zip(clips, boxes, strict=True)]
    assert together.shape == (5, CLASSES) and alone[1].shape == (0, CLASSES)
    torch.testing.assert_close(together, torch.cat(alone))
    assert not torch.allclose(together[0], together[2], atol=1e-3), "the same box of another clip"


def test_a_clip_without_boxes_has_a_gradient_of_zero():
    model = detector().train()
    model(torch.randn(1, 3, FRAMES, SIDE, SIDE), [BOXES[:0]]).sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_concat_refuses_another_number_of_frames_and_mean_does_not():
    clips, boxes = torch.randn(1, 3, 2 * FRAMES, SIDE, SIDE), [BOXES]
    assert detector("mean")(clips, boxes).shape == (3, CLASSES)
    with pytest.raises(ValueError, match="clips of 8 frames: the head of this detector reads 4 side by side"):
        detector("concat")(clips, boxes)


def test_the_order_of_frames_reaches_concat():
    clips = torch.randn(1, 3, FRAMES, SIDE, SIDE)
    model = detector("concat")
    with torch.no_grad():
        assert not torch.allclose(model(clips, [BOXES]), model(clips.flip(2), [BOXES]), atol=1e-2)


@pytest.mark.parametrize("scope", ["embeddings", "layers"])
def test_layer_decay_and_weight_decay_are_the_classifiers(scope):
    classifier = VideoMambaPro(num_classes=CLASSES, **SIZES)
    expected = layer_scales(classifier, 0.5, scope)
    found = layer_scales(detector(), 0.5, scope)
    assert {name.removeprefix("backbone."): scale for name, scale in found.items()} == expected
    assert len(set(expected.values())) == (4 if scope == "layers" else 2)
    spared = {name.removeprefix("backbone.") for name in no_weight_decay_names(detector())}
    assert spared == no_weight_decay_names(classifier)


def test_an_untrained_head_can_start_from_how_often_classes_are():
    model = detector()
    torch.nn.init.zeros_(model.head.weight)
    frequencies = torch.tensor([0.5, 0.01, 0.2, 0.9, 0.3, 0.05])
    model.expect(frequencies)
    scores = model(torch.randn(1, 3, FRAMES, SIDE, SIDE), [BOXES]).sigmoid()
    torch.testing.assert_close(scores, frequencies.expand(3, -1))


def save(model, path, **more):
    torch.save({"model": model.state_dict(), "model_config": model.config.values(), **more}, path)
    return path


@pytest.mark.parametrize("time_pool", ["mean", "concat"])
@pytest.mark.parametrize("converted", ["", "small.safetensors", "small.pth"])
def test_a_checkpoint_brings_the_detector_back(tmp_path, time_pool, converted):
    model = detector(time_pool)
    file = save(model, tmp_path / "file.pth")
    assert re.search(rf"time_pool +{time_pool}\n", inspect(file)) and "run_action_detection.py --eval" in inspect(file)
    if converted:
        convert(file, tmp_path / converted)
        file = tmp_path / converted
    again = build_described(describe_checkpoint(file), backend="portable")
    report = load_checkpoint(again, file, require_head=True)
    assert {action for action, _ in report.rows.values()} == {"loaded"}
    clips = torch.randn(1, 3, FRAMES, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(again.eval()(clips, [BOXES]), model(clips, [BOXES]))


def test_heads_are_not_taken_for_each_other(tmp_path):
    classifier = VideoMambaPro(num_classes=CLASSES, drop_path_rate=0.0, **SIZES)
    torch.nn.init.normal_(classifier.head.weight)
    file = save(classifier, tmp_path / "classifier.pth")
    model = detector()
    head = model.head.weight.clone()
    report = load_checkpoint(model, file)
    assert report.names("initialised") == ["head.weight", "head.bias"] and torch.equal(model.head.weight, head)
    assert torch.equal(model.backbone.cls_token, classifier.cls_token)
    with pytest.raises(CheckpointError, match=r"its head does not fit: head.weight \(of a classifier of clips\)"):
        load_checkpoint(model, file, require_head=True)

    file = save(detector("concat"), tmp_path / "detector.pth")
    for other, words in ((classifier, "concat"), (detector(), "concat"), (detector("concat", num_frames=2), "frames")):
        assert words in load_checkpoint(other, file).rows["head.weight"][1]


def test_settings_build_a_detector_of_a_registered_size():
    settings = ModelSettings("videomambapro_nano", dict(time_pool="concat", num_frames=4, img_size=32))
    model = build_model(settings, CLASSES)
    assert isinstance(model, ActionDetector) and model.head.in_features == 4 * 96
    assert (model.config.name, model.config.num_classes) == ("videomambapro_nano", CLASSES)
    assert np.prod(model.backbone.head.weight.shape if hasattr(model.backbone.head, "weight") else 0) == 0
