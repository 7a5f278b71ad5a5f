"""Self-distillation against an explicit loss: same gradients, both terms logged, no effect on evaluation."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from engine_standins import MemoryVideos, classify, make_args, training_loader

import run_pretrain_imagenet
from engines.checkpoint import load_weights, save_checkpoint
from engines.configuration import parse_arguments
from engines.distributed import Context
from engines.logs import RunLog
from engines.objectives.distillation import Distillation, TokenDistance, token_distance
from engines.parallel import saved_weights
from engines.state import create_training_state
from engines.train import train_one_epoch
from models.arguments import ModelSettings
from models.build import build_model
from models.videomambapro import VideoMambaPro


def build(embed_dim, seed=0, **settings):
    torch.manual_seed(seed)
    sizes = dict(img_size=32, num_frames=1, depth=2, embed_dim=embed_dim, num_classes=5, drop_path_rate=0.0)
    return VideoMambaPro(**(sizes | settings))


def distilled(weight=1.0):
    return Distillation(build(48), 5, teacher=TokenDistance(48, build(32, seed=1)), weight=weight)


def test_the_distance_by_hand():
    student = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
    teacher = torch.tensor([[[0.0, 2.0], [6.0, 8.0]]])
    assert token_distance(student, teacher).item() == pytest.approx((2.0 + 0.0) / 2)
    assert token_distance(student, -student).item() == pytest.approx(4.0)


def test_gradients_are_those_of_cross_entropy_plus_the_distance():
    objective, clips, labels = distilled(weight=0.7), torch.randn(3, 3, 1, 32, 32), torch.tensor([0, 4, 2])
    found = objective({"clips": clips, "targets": labels})
    found["loss"].backward()
    got = {name.removeprefix("model."): parameter.grad for name, parameter in objective.named_parameters()}

    plain, teacher = build(48), build(32, seed=1)
    proj = copy.deepcopy(objective.distillation.proj)
    proj.zero_grad()
    tokens = plain.forward_tokens(clips)
    with torch.no_grad():
        wanted = teacher.eval().forward_tokens(clips)
    unit = F.normalize(proj(tokens), dim=-1), F.normalize(wanted, dim=-1)
    distance = (2 - 2 * (unit[0] * unit[1]).sum(-1)).mean()
    cross_entropy = F.cross_entropy(plain.head(tokens[:, 0]), labels)
    (cross_entropy + 0.7 * distance).backward()
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    expected |= {f"distillation.proj.{name}": parameter.grad for name, parameter in proj.named_parameters()}
    assert got.keys() == expected.keys(), "the teacher has no gradient and is no parameter"
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], msg=name)
    assert found["distance"].item() == pytest.approx(distance.item(), rel=1e-5)
    assert found["cross_entropy"].item() == pytest.approx(cross_entropy.item(), rel=1e-5)


def test_an_evaluation_is_the_plain_models_and_the_teacher_sleeps():
    objective, plain, clips = distilled().eval(), build(48).eval(), torch.randn(2, 3, 1, 32, 32)
    objective.distillation.forward = lambda *_: pytest.fail("asked in evaluation")
    with torch.no_grad():
        found = objective.outputs({"clips": clips}, torch.device("cpu"), clips_per_forward=2)
        assert torch.equal(torch.from_numpy(found), plain(clips).log_softmax(-1))


def test_the_projection_is_saved_beside_the_model_and_the_teacher_is_not():
    objective = distilled()
    assert saved_weights(objective).keys() - build(48).state_dict().keys() == {
        "distillation.proj.weight", "distillation.proj.bias",
    }  # fmt: skip
    assert copy.deepcopy(objective).distillation.teacher.module is objective.distillation.teacher.module


def test_the_distance_is_logged_the_projection_trained_and_averaged_and_the_student_tested(tmp_path):
    args = make_args("--model_ema", "--model_ema_decay", "0.5", "--lr", "1", "--warmup_epochs", "0")
    objective = Distillation(
        build(48, img_size=8, patch_size=4, num_frames=2),
        5,
        teacher=TokenDistance(48, build(32, seed=1, img_size=8, patch_size=4, num_frames=2)),
    )
    state = create_training_state(objective, args, Context(), steps_per_epoch=3)
    before = saved_weights(objective)["distillation.proj.weight"].clone()
    metrics = train_one_epoch(state, training_loader(MemoryVideos(12)), args, Context(), RunLog()).metrics
    assert metrics["loss"] == pytest.approx(metrics["cross_entropy"] + metrics["distance"], rel=1e-6)
    assert 0 < metrics["distance"] < 4 and json.dumps(metrics)
    saved = state.state_dict()
    moved = [(saved[kind]["distillation.proj.weight"] - before).abs().max() for kind in ("model", "model_ema")]
    assert moved[0] > moved[1] > 0

    state.step = state.steps_per_epoch
    save_checkpoint(state, str(tmp_path), Context())
    tested = classify(build(48, seed=2, img_size=8, patch_size=4, num_frames=2), classes=5)
    load_weights(tested, tmp_path / "checkpoint-latest.pth")
    averaged = state.ema.module.model.state_dict()
    assert all(torch.equal(value, averaged[name]) for name, value in tested.model.state_dict().items())
    shallow = classify(build(48, depth=1, img_size=8, patch_size=4, num_frames=2), classes=5)
    with pytest.raises(ValueError, match="another model"):
        load_weights(shallow, tmp_path / "checkpoint-latest.pth")


def test_the_flag_builds_the_teacher_that_the_file_tells(tmp_path):
    teacher = build(192, depth=24, img_size=16)
    torch.save({"model": teacher.state_dict()}, tmp_path / "teacher.pth")
    words = ["--model", "videomambapro_nano", "--input_size", "16", "--teacher", str(tmp_path / "teacher.pth")]
    args = parse_arguments(
        run_pretrain_imagenet.get_parser(), [*words, "--distill_weight", "0.5"], script=run_pretrain_imagenet.SCRIPT
    )
    videos = MemoryVideos(5)
    model, tested_set = build_model(ModelSettings.from_flags(args), 5), SimpleNamespace(num_classes=5)
    objective = run_pretrain_imagenet.create_objective(model, args, tested_set, videos)
    clips = torch.randn(1, 3, 1, 16, 16)
    built = objective.distillation.teacher.module
    assert torch.equal(built.forward_tokens(clips), teacher.eval().forward_tokens(clips))
    assert objective.weight == 0.5 and objective.mixup is not None
    assert not any(parameter.requires_grad for parameter in built.parameters())
    tested = run_pretrain_imagenet.create_objective(model, args, tested_set, None)
    assert not isinstance(tested, Distillation)


def test_the_recipe_of_middle_asks_for_its_teacher(caplog):
    words = ["--recipe", "imagenet/middle_res224"]
    parse_arguments(run_pretrain_imagenet.get_parser(), words, script=run_pretrain_imagenet.SCRIPT)
    assert "distils from a teacher (imagenet/small_res224), but --teacher FILE is missing" in caplog.text
