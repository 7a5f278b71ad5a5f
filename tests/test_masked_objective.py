"""The objective of masked pretraining: loss and targets by hand, gradients, order of tokens, nearest neighbours."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engines.objectives.masked import MaskedAlignment, MaskSettings, sinusoids
from engines.objectives.neighbours import Neighbours, leave_one_out_accuracy
from engines.parallel import saved_weights
from models.arguments import MASK_TYPES
from models.teachers import FamilyTeacher, VitTeacher
from models.videomambapro import VideoMambaPro

CPU = torch.device("cpu")
SIZES = dict(img_size=32, patch_size=8, num_frames=3, depth=3, embed_dim=32, num_classes=0, drop_path_rate=0.0)


class TimeFirst(VideoMambaPro):
    """Another order of the tokens: place by place."""

    def line_up(self, patches):
        return patches.transpose(1, 2).flatten(1, 2)


def build(kind=VideoMambaPro, seed=0, **settings):
    torch.manual_seed(seed)
    return kind(**SIZES | settings)


def vit():
    import timm

    torch.manual_seed(1)
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=0)
    return VitTeacher(network, project=False).eval().requires_grad_(False)


def masked(student=None, teacher=None, mask_type="attention", mask_ratio=0.8):
    return MaskedAlignment(student or build(), teacher or vit(), MaskSettings(mask_type, mask_ratio))


def batch(clips=2, side=32, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return {"clips": torch.randn(clips, 3, 3, side, side, generator=generator), "targets": torch.zeros(clips)}


@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_the_loss_is_that_of_the_visible_tokens_by_hand(mask_type):
    objective, clips = masked(mask_type=mask_type), batch()["clips"]
    prepared = objective.prepare(batch(), CPU)
    found = objective(prepared)
    with torch.no_grad():
        wanted = objective.teacher.module(clips).tokens
        student = objective.model.forward_tokens(clips, prepared["keep"])
    head, norm, cosines = objective.alignment.head, objective.alignment.norm, []
    for clip in range(2):
        for place, token in zip(prepared["keep"][clip].tolist(), student[clip], strict=True):
            position = [f(place / 10_000 ** (2 * (j // 2) / 32)) for j, f in enumerate([math.sin, math.cos] * 16)]
            decoded = norm(head(token + torch.tensor(position)))
            cosines.append(F.cosine_similarity(decoded, wanted[clip, place], dim=0).item())
    assert found["loss"].item() == pytest.approx(2 - 2 * np.mean(cosines), rel=1e-5)
    first = np.array(cosines).reshape(2, -1)
    assert found["class_cosine"].item() == pytest.approx(first[:, 0].mean(), rel=1e-4)
    assert found["patch_cosine"].item() == pytest.approx(first[:, 1:].mean(), rel=1e-4)


@pytest.mark.parametrize("bimamba_type", ["v1", "v2"])
def test_a_gradient_reaches_every_parameter_of_the_student_and_the_decoder(bimamba_type):
    objective = masked(build(bimamba_type=bimamba_type))
    objective(objective.prepare(batch(), CPU))["loss"].backward()
    without = [n for n, p in objective.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_the_published_choice_of_tokens_would_leave_the_last_block_untrained():
    """The control of the test above: aligned is the residual before the last mixer's output is added."""
    model = build()
    hidden, residual = model.embed(batch()["clips"]), None
    for layer in model.layers:
        hidden, residual = layer(hidden, residual)
    residual.sum().backward()
    without = {name.rpartition(".")[0] for name, parameter in model.named_parameters() if parameter.grad is None}
    assert {"norm_f", "layers.2.mixer.in_proj", "layers.2.mixer.out_proj"} <= without


@pytest.mark.parametrize("kind", [VideoMambaPro, TimeFirst])
def test_a_student_that_is_its_own_teacher_has_no_loss(kind):
    """With nothing hidden and without the decoder; the control is a student with other weights."""

    class Nothing(nn.Module):
        def forward(self, tokens, places):
            return F.normalize(tokens, dim=-1)

    teacher = FamilyTeacher(build(kind), by_frame=False).eval()
    for seed, loss in ((0, pytest.approx(0, abs=1e-5)), (1, pytest.approx(2, abs=1.5))):
        objective = masked(build(kind, seed=seed), teacher, "tube", 0.0).eval()
        objective.alignment = Nothing()
        with torch.no_grad():
            assert objective(objective.prepare(batch(), CPU))["loss"].item() == loss


def test_targets_belong_to_the_patches_that_the_student_sees_whatever_its_order():
    torch.manual_seed(0)
    objective = masked(build(TimeFirst), mask_type="random")
    prepared, clips = objective.prepare(batch(), CPU), batch()["clips"]
    marked = clips.clone().requires_grad_()
    (tokens,) = objective.model.embed(marked[:1]).gather(1, prepared["keep"][:1, 5:6, None].expand(-1, -1, 32))
    tokens.sum().backward()
    frame, row, column = (axis[0].item() for axis in marked.grad[0].abs().sum(0).nonzero(as_tuple=True))
    place = 1 + 16 * frame + 4 * (row // 8) + column // 8
    with torch.no_grad():
        assert torch.equal(prepared["targets"][0, 5], objective.teacher.module(clips).tokens[0, place])
    assert (prepared["keep"].diff(dim=1) > 0).all() and (prepared["keep"][:, 0] == 0).all()


def test_the_teacher_is_neither_saved_nor_copied_nor_trained():
    objective = masked()
    own = saved_weights(objective).keys() - build().state_dict().keys()
    assert own == {f"alignment.{part}.{kind}" for part in ("head", "norm") for kind in ("weight", "bias")}
    assert copy.deepcopy(objective).teacher.module is objective.teacher.module
    assert not any("teacher" in name for name, _ in objective.named_parameters())


def test_attention_masks_need_a_teacher_with_attention():
    with pytest.raises(ValueError, match="--mask_type attention .* random, tube, tube_row, random_row"):
        masked(teacher=FamilyTeacher(build(), by_frame=False))


def test_positions_are_even_sines_and_odd_cosines():
    table = sinusoids(5, 6)
    assert table.shape == (5, 6)
    assert table[3, 2].item() == pytest.approx(math.sin(3 / 10_000 ** (2 / 6)), rel=1e-6)
    assert table[3, 5].item() == pytest.approx(math.cos(3 / 10_000 ** (4 / 6)), rel=1e-6)


def test_the_nearest_neighbours_are_found_without_the_clip_itself():
    angles = np.array([0.0, 0.1, 1.0, 1.1, 1.25])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # The nearest: 1, 0, 3, 2, 3. The third of class 0 is among those of class 1.
    assert leave_one_out_accuracy(features, np.array([0, 0, 1, 1, 0]), neighbours=1) == 80.0
    assert leave_one_out_accuracy(features[:2], np.array([0, 1])) == 0.0, "each has the other alone"


def test_neighbours_of_separate_classes_are_right_and_of_shuffled_ones_are_chance():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    features = np.eye(8)[labels] + 0.1 * rng.normal(size=(400, 8))
    assert leave_one_out_accuracy(features, labels) == 100.0
    assert 15 < leave_one_out_accuracy(features, rng.permutation(labels)) < 35


def test_both_kinds_of_features_are_tested():
    objective, clips = Neighbours(build()).eval(), batch(6)["clips"]
    with torch.no_grad():
        outputs = objective.outputs({"clips": clips}, CPU, clips_per_forward=4)
        tokens = objective.model.forward_tokens(clips)
    expected = torch.stack([tokens[:, 0], tokens[:, 1:].mean(1)], 1)
    np.testing.assert_allclose(outputs, F.normalize(expected, dim=-1), rtol=1e-4, atol=1e-5)
    records = [SimpleNamespace(target=label) for label in (0, 1, 0, 1, 0, 0)]
    figures = objective.figures(outputs, records)
    assert figures["knn"] == leave_one_out_accuracy(outputs[:, 0], np.array([0, 1, 0, 1, 0, 0]))
    assert figures["majority"] == pytest.approx(100 * 4 / 6)
    with pytest.raises(ValueError, match="--probe_list needs two"):
        objective.figures(outputs[:1], records[:1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
@pytest.mark.parametrize("mask_type", MASK_TYPES)
def test_teacher_masks_and_student_work_on_the_device(mask_type):
    """In bfloat16, with nothing hidden, so that the loss is that of the CPU."""
    on_cpu, on_device = masked(mask_type=mask_type, mask_ratio=0.0), masked(mask_type=mask_type, mask_ratio=0.0)
    device = torch.device("cuda")
    on_device.to(device)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = on_device(on_device.prepare(batch(), device))["loss"]
    found.backward()
    with torch.no_grad():
        expected = on_cpu(on_cpu.prepare(batch(), CPU))["loss"].item()
    assert found.item() == pytest.approx(expected, rel=0.03)
    assert all(parameter.grad.isfinite().all() for parameter in on_device.parameters())
