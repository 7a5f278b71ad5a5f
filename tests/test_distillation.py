"""Self-distillation against the loss written out: same gradients, same logits, nothing of it in evaluation."""

import copy

import pytest
import torch
import torch.nn.functional as F

import run_pretrain_imagenet
from engines.configuration import parse_arguments
from models.build import build_model
from models.distillation import TokenDistillation, add_teacher, attach_distillation, token_distance
from models.videomambapro import VideoMambaPro


def build(embed_dim, seed=0, **settings):
    torch.manual_seed(seed)
    sizes = dict(img_size=32, num_frames=1, depth=2, embed_dim=embed_dim, num_classes=5, drop_path_rate=0.0)
    return VideoMambaPro(**(sizes | settings))


def distilled(weight=1.0, batches=1):
    student = build(48)
    attach_distillation(student, TokenDistillation(build(32, seed=1), 48, weight, batches))
    return student


def test_the_distance_by_hand():
    student = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
    teacher = torch.tensor([[[0.0, 2.0], [6.0, 8.0]]])
    assert token_distance(student, teacher).item() == pytest.approx((2.0 + 0.0) / 2)
    assert token_distance(student, -student).item() == pytest.approx(4.0)


def test_gradients_are_those_of_cross_entropy_plus_the_distance():
    student, clips, labels = distilled(weight=0.7, batches=2), torch.randn(3, 3, 1, 32, 32), torch.tensor([0, 4, 2])
    (F.cross_entropy(student(clips), labels) / 2).backward()
    got = {name: parameter.grad for name, parameter in student.named_parameters()}

    plain, teacher = build(48), build(32, seed=1)
    proj = copy.deepcopy(student.distillation.proj)
    proj.zero_grad()
    tokens = plain.forward_tokens(clips)
    with torch.no_grad():
        wanted = teacher.eval().forward_tokens(clips)
    unit = F.normalize(proj(tokens), dim=-1), F.normalize(wanted, dim=-1)
    distance = (2 - 2 * (unit[0] * unit[1]).sum(-1)).mean()
    ((F.cross_entropy(plain.head(tokens[:, 0]), labels) + 0.7 * distance) / 2).backward()
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    expected |= {f"distillation.proj.{name}": parameter.grad for name, parameter in proj.named_parameters()}
    assert got.keys() == expected.keys(), "the teacher has no gradient and is no parameter"
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], msg=name)


def test_logits_are_unchanged_and_the_teacher_sleeps_in_evaluation():
    student, plain, clips = distilled(), build(48), torch.randn(2, 3, 1, 32, 32)
    assert torch.equal(student.train()(clips), plain.train()(clips))
    student.distillation.distance = lambda *_: pytest.fail("asked in evaluation")
    assert torch.equal(student.eval()(clips), plain.eval()(clips))
    with torch.no_grad():
        student.train()(clips)


def test_the_teacher_is_not_saved_and_copies_share_it():
    student = distilled()
    student(torch.randn(1, 3, 1, 32, 32)).sum().backward()
    assert student.state_dict().keys() - build(48).state_dict().keys() == {
        "distillation.proj.weight", "distillation.proj.bias",
    }  # fmt: skip
    assert copy.deepcopy(student).distillation._teacher.module is student.distillation._teacher.module


def test_the_flag_builds_the_teacher_that_the_file_tells(tmp_path):
    teacher = build(192, depth=24, img_size=16)
    torch.save({"model": teacher.state_dict()}, tmp_path / "teacher.pth")
    words = ["--model", "videomambapro_nano", "--input_size", "16", "--teacher", str(tmp_path / "teacher.pth")]
    words += ["--distill_weight", "0.5", "--update_freq", "4"]
    args = parse_arguments(run_pretrain_imagenet.get_parser(), words, script=run_pretrain_imagenet.SCRIPT)
    student = build_model(args, 5)
    add_teacher(student, args)
    clips = torch.randn(1, 3, 1, 16, 16)
    built = student.distillation._teacher.module
    assert torch.equal(built.forward_tokens(clips), teacher.eval().forward_tokens(clips))
    assert student.distillation.scale == 0.5 / 4
    assert not any(parameter.requires_grad for parameter in built.parameters())


def test_the_recipe_of_middle_asks_for_its_teacher(caplog):
    words = ["--recipe", "imagenet/middle_res224"]
    parse_arguments(run_pretrain_imagenet.get_parser(), words, script=run_pretrain_imagenet.SCRIPT)
    assert "distils from a teacher (imagenet/small_res224), and no --teacher FILE names it" in caplog.text
