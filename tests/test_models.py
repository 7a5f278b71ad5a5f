"""The models against the published code, and requirements on every registered model."""

import json

import pytest
import timm
import torch

from models import VideoMambaPro, videomambapro
from models.videomambapro import PUBLISHED_SIZES
from tests.goldens import DATA, golden_cases, golden_tensors

PUBLISHED = json.loads((DATA / "state_dict_keys.json").read_text())
REGISTERED = [name for name in timm.list_models("videomamba*") if name in vars(videomambapro)]
SMALL = dict(img_size=32, num_frames=2, num_classes=5, embed_dim=32, depth=2)


def golden_model(name, case, **switches):
    golden = golden_tensors(name, case["case"])
    config = {key: value for key, value in case.items() if key not in ("case", "batch")}
    model = VideoMambaPro(drop_path_rate=0.0, **config, **switches).eval()
    prefix = "state/"
    state = {key[len(prefix) :]: value for key, value in golden.items() if key.startswith(prefix)}
    model.load_state_dict(state)
    return model, golden


@pytest.mark.parametrize("backend", ["portable", "reference", None])
@pytest.mark.parametrize("scan_input", ["conv", "raw"])
@pytest.mark.parametrize("case", golden_cases("model"), ids=lambda case: case["case"])
def test_published_logits(case, scan_input, backend):
    model, golden = golden_model("model", case, scan_input=scan_input, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(model(golden["x"]), golden[f"logits_{scan_input}"], rtol=1e-4, atol=1e-5)
        if scan_input == "conv":
            torch.testing.assert_close(
                model.forward_features(golden["x"]), golden["features_conv"], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("case", golden_cases("videomamba_baseline"), ids=lambda case: case["case"])
def test_videomamba_baseline_logits(case):
    switches = dict(bimamba_type="v2", elemental_residual=False, masked_backward=False)
    model, golden = golden_model("videomamba_baseline", case, **switches)
    with torch.no_grad():
        torch.testing.assert_close(model(golden["x"]), golden["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    published = PUBLISHED[name]
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=published["num_classes"], num_frames=published["num_frames"])
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    listed = {
        key: shape for key, shape in shapes.items() if not key.startswith("layers.") or key.startswith("layers.0.")
    }
    assert listed == published["shapes"]
    assert len(model.layers) == published["depth"]
    assert sum(p.numel() for p in model.parameters()) == published["params"]


@pytest.mark.parametrize("name", REGISTERED)
def test_every_registered_model_trains(name):
    model = timm.create_model(name, **SMALL)
    logits = model(torch.randn(2, 3, 2, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []


def test_published_names_are_registered():
    assert {f"videomambapro_{size}" for size in PUBLISHED_SIZES} <= set(REGISTERED)
    assert {f"videomamba_{size}" for size in PUBLISHED_SIZES} <= set(REGISTERED)
    assert {f"videomambapro_{size}16_in1k" for size in "tsm"} | {"videomamba_base"} <= set(REGISTERED)


def test_base_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = timm.create_model("videomamba_base", num_frames=1, num_classes=1000)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(98, abs=0.5), "VideoMamba's model zoo gives 98 M"


def test_activation_checkpointing_changes_nothing():
    torch.manual_seed(0)
    clips = torch.randn(2, 3, 2, 32, 32)
    plain = timm.create_model("videomambapro_nano", **SMALL, drop_path_rate=0.0)
    saving = timm.create_model(
        "videomambapro_nano", **SMALL, drop_path_rate=0.0, use_checkpoint=True, checkpoint_num=2
    )
    saving.load_state_dict(plain.state_dict())
    for model in (plain, saving):
        model(clips).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, n=name: f"{n}: {m}")


def test_the_order_of_frames_matters_and_the_first_frames_token_alone_is_kept():
    torch.manual_seed(0)
    model = timm.create_model("videomambapro_nano", **SMALL).eval().double()
    clips = torch.randn(1, 3, 2, 32, 32, dtype=torch.float64)
    assert model.forward_tokens(clips).shape == (1, 1 + 2 * 4, 32)
    # Far above rounding: an untrained model differs by 1e-6, more or less with the random numbers of a release.
    assert not torch.allclose(model(clips), model(clips.flip(2)), rtol=0, atol=1e-9)


def test_step_sizes_at_initialisation():
    published = timm.create_model("videomambapro_nano", **SMALL)
    assert all(layer.mixer.dt_proj.bias.abs().max() == 0 for layer in published.layers)
    mamba = timm.create_model("videomambapro_nano", **SMALL, dt_init="mamba")
    steps = torch.nn.functional.softplus(torch.stack([layer.mixer.dt_proj.bias for layer in mamba.layers]))
    assert 0.0009 < steps.min() < 0.005 and 0.05 < steps.max() < 0.11
    for model in (published, mamba):
        assert model.layers[0].mixer.out_proj.weight.abs().max() <= 1 / 64**0.5 / 2**0.5 + 1e-6
        assert 0.015 < model.layers[0].mixer.in_proj.weight.std() < 0.025


def test_weight_decay_spares_the_state_space_and_the_positions():
    model = timm.create_model("videomambapro_nano", **SMALL)
    spared = model.no_weight_decay()
    for name in ("A_log", "A_b_log", "D"):
        assert f"layers.1.mixer.{name}" in spared
    assert {"pos_embed", "cls_token", "temporal_pos_embedding"} <= spared
    assert not any(name.endswith("proj.weight") for name in spared)


def test_no_weights_are_promised():
    with pytest.raises(ValueError, match="--finetune"):
        timm.create_model("videomambapro_tiny", pretrained=True)
