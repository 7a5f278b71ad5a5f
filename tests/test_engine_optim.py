"""Parameter groups, learning-rate scaling and the schedule, against values worked out by hand."""

import copy
import logging
import math

import pytest
import torch
from engine_standins import TinyModel, make_args
from timm.utils import ModelEmaV3
from torch import nn

from engines.optim import (
    LearningRates,
    create_optimizer,
    create_schedule,
    decides_on_device,
    layer_scales,
    parameter_groups,
    scale_learning_rates,
)
from engines.recipe import load_recipe, recipe_names
from engines.update import average_weights
from models import videomambapro


def settings_by_name(model, groups):
    """{parameter name: (lr factor, weight decay)}; fails where a parameter is in no group or in two."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    listed = [
        (names[id(p)], (group.get("lr_scale", 1.0), group["weight_decay"]))
        for group in groups
        for p in group["params"]
    ]
    assert sorted(name for name, _ in listed) == sorted(names.values())
    return dict(listed)


def test_layer_decay_goes_by_the_position_in_the_module_list():
    model = TinyModel(depth=4)
    settings = settings_by_name(model, parameter_groups(model, weight_decay=0.05, layer_decay=0.5, scope="layers"))
    assert settings["head.weight"][0] == 1
    for number in range(4):
        assert settings[f"layers.{number}.linear.weight"][0] == 0.5 ** (4 - number)
        assert settings[f"layers.{number}.A_log"][0] == 0.5 ** (4 - number)
    assert settings["norm_f.weight"][0] == 0.5
    assert settings["stem.weight"][0] == settings["cls_token"][0] == 0.5**5


# The published rule, written out: embeddings by decay^(depth + 1), everything else at the full rate.
@pytest.mark.parametrize(
    ("recipe", "depth", "decay"),
    [
        ("k400/tiny_f16_res224", 24, 0.75),
        ("ssv2/small_f8_res224", 24, 0.75),
        ("k400/middle_f16_res224", 32, 0.75),
        ("k400/middle_masked_f16_res224", 32, 0.8),
        ("ssv2/middle_masked_f8_res224", 32, 0.8),
    ],
)
def test_layer_decay_of_published_recipes_reaches_the_embeddings_alone(recipe, depth, decay):
    flags = load_recipe(recipe).flags
    assert flags["layer_decay_scope"] == "embeddings"
    with torch.device("meta"):
        model = getattr(videomambapro, flags["model"])(num_frames=8)
    scales = layer_scales(model, flags.get("layer_decay", 0.75), flags["layer_decay_scope"])
    embeddings = {"patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed", "cls_token"}
    assert {name for name, scale in scales.items() if scale != 1} == embeddings
    assert [scales[name] for name in embeddings] == pytest.approx([decay ** (depth + 1)] * 4)
    assert scales["temporal_pos_embedding"] == scales["layers.0.mixer.A_log"] == 1
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=decay, scope=flags["layer_decay_scope"])
    assert {name: scale for name, (scale, _) in settings_by_name(model, groups).items()} == scales


def test_every_published_video_recipe_names_the_published_scope():
    published = [recipe for recipe in map(load_recipe, recipe_names()) if recipe.reported]
    scopes = {recipe.name: recipe.flags.get("layer_decay_scope") for recipe in published}
    videos = [recipe.name for recipe in published if recipe.script == "run_class_finetuning.py"]
    assert len(videos) > 40 and {scopes[name] for name in videos} == {"embeddings"}
    images = [recipe for recipe in published if recipe.script == "run_pretrain_imagenet.py"]
    assert {recipe.flags["layer_decay"] for recipe in images} == {1.0}, "image runs: none"


@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
def test_what_goes_without_weight_decay(layer_decay):
    model = TinyModel()
    settings = settings_by_name(model, parameter_groups(model, weight_decay=0.05, layer_decay=layer_decay))
    decayed = {name for name, (_, decay) in settings.items() if decay == 0.05}
    assert decayed == {"stem.weight", "head.weight", *(f"layers.{i}.linear.weight" for i in range(4))}
    assert {decay for name, (_, decay) in settings.items() if name not in decayed} == {0.0}


def test_frozen_parameters_stay_out():
    model = TinyModel()
    model.stem.requires_grad_(False)
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=0.75)
    listed = {id(parameter) for group in groups for parameter in group["params"]}
    assert id(model.stem.weight) not in listed and id(model.head.weight) in listed


def test_layer_decay_without_group_matcher_is_refused():
    with pytest.raises(ValueError, match="--layer_decay 1"):
        parameter_groups(nn.Linear(2, 2), weight_decay=0, layer_decay=0.5)


# The recipes' rows: flags and processes -> peak, minimum, warm-up.
@pytest.mark.parametrize(
    ("values", "world_size", "expected"),
    [
        (dict(lr=2e-4, batch_size=64, num_sample=2), 8, (8e-4, 4e-6, 4e-6)),
        (dict(lr=5e-6, batch_size=2, num_sample=2, update_freq=2), 32, (5e-6, 1e-6, 1e-6)),
        (
            dict(lr=5e-4, batch_size=512, num_sample=1, lr_base=512, scale_min_lr=False, min_lr=1e-5),
            8,
            (4e-3, 1e-5, 1e-6),
        ),
    ],
)
def test_learning_rates_of_the_published_recipes(values, world_size, expected):
    rates = scale_learning_rates(make_args(**values), world_size)
    assert (rates.peak, rates.minimum, rates.warmup) == pytest.approx(expected)


def test_a_minimum_above_the_peak_is_pointed_out(caplog):
    with caplog.at_level(logging.WARNING):
        scale_learning_rates(make_args(lr=1e-6, scale_min_lr=False, min_lr=1e-5, lr_base=512), 1)
    assert "--min_lr" in caplog.text


def test_the_learning_rate_is_told_in_words(caplog):
    typed = dict(batch_size=16, num_sample=2, lr=2e-4, min_lr=1e-6)
    with caplog.at_level(logging.INFO):
        scale_learning_rates(make_args(**typed), 1)
        absolute = scale_learning_rates(make_args(**typed, lr_absolute=True), 1)
    assert "--lr 0.0002 is for 256 clips per step; at 32 clips per step this is 2.5e-05" in caplog.text
    assert (absolute.peak, absolute.minimum, absolute.clips_per_update) == (2e-4, 1e-6, 32)
    assert "--lr 0.0002 as typed (--lr_absolute), at 32 clips per step" in caplog.text


def rates_along(args, rates, steps_per_epoch, factor=1.0):
    weight = nn.Parameter(torch.zeros(2, 2))
    optimizer = torch.optim.SGD([{"params": [weight], "lr_scale": factor}], lr=rates.peak)
    schedule = create_schedule(optimizer, args, rates, steps_per_epoch)
    values = []
    for update in range(args.epochs * steps_per_epoch + 1):
        schedule.step_update(update)
        values.append(optimizer.param_groups[0]["lr"])
    return values


@pytest.mark.parametrize("flags", [("--warmup_epochs", "2"), ("--warmup_epochs", "7", "--warmup_steps", "20")])
def test_schedule_at_known_updates(flags):
    args = make_args("--epochs", "6", *flags)
    values = rates_along(args, LearningRates(peak=1.0, minimum=0.1, warmup=0.2, clips_per_update=1), 10, factor=0.5)
    assert values[0] == pytest.approx(0.5 * 0.2)
    assert values[10] == pytest.approx(0.5 * 0.6)
    assert values[20] == pytest.approx(0.5 * 1.0)
    assert values[30] == pytest.approx(0.5 * (0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2))
    assert values[40] == pytest.approx(0.5 * 0.55)
    assert values[60] == pytest.approx(0.5 * 0.1)
    assert all(a > b for a, b in zip(values[20:], values[21:], strict=False))


def test_no_warmup_starts_at_the_peak():
    values = rates_along(make_args("--epochs", "2", "--warmup_epochs", "0"), LearningRates(1.0, 0.0, 0.5, 1), 4)
    assert values[0] == 1.0 and values[-1] == pytest.approx(0.0)


def test_a_warmup_longer_than_the_run_is_pointed_out(caplog):
    with caplog.at_level(logging.WARNING):
        values = rates_along(make_args("--epochs", "1"), LearningRates(1.0, 0.0, 0.0, 1), 10)
    assert "--warmup_epochs" in caplog.text
    assert values[10] == pytest.approx(0.2)


def test_optimizer_flags_reach_the_optimizer():
    args = make_args("--opt_betas", "0.9", "0.95", "--opt_eps", "1e-6")
    optimizer = create_optimizer(TinyModel(), args, 0.3)
    assert isinstance(optimizer, torch.optim.AdamW)
    for group in optimizer.param_groups:
        assert tuple(group["betas"]) == (0.9, 0.95) and group["eps"] == 1e-6 and group["lr"] == 0.3


@pytest.mark.parametrize(("name", "fused"), [("adam", True), ("AdamW", True), ("lookahead_adamw", False)])
def test_only_what_pytorch_fuses_decides_on_the_device(name, fused):
    assert decides_on_device(create_optimizer(TinyModel(), make_args("--opt", name), 0.3, on_device=True)) is fused


def test_an_optimizer_that_cannot_be_created_is_named_with_its_flags():
    with pytest.raises(ValueError, match="--opt adan cannot be created with --opt_betas 0.9 0.999 here"):
        create_optimizer(TinyModel(), make_args("--opt", "adan"), 0.3)
    with pytest.raises(ValueError, match="--opt adahessian needs second derivatives"):
        create_optimizer(TinyModel(), make_args("--opt", "adahessian"), 0.3)


def test_without_waiting_for_the_device_weights_are_averaged_as_by_timm():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    by_timm = ModelEmaV3(model, decay=0.9, exclude_buffers=True)
    ours = copy.deepcopy(by_timm.module)
    for _ in range(3):
        model.train()(torch.randn(8, 3) + 2)
        torch.nn.init.normal_(model[0].weight)
        by_timm.update(model)
        average_weights(ours, model, torch.tensor(0.1), torch.tensor(0.0))
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    for name, tensor in by_timm.module.state_dict().items():
        torch.testing.assert_close(before[name], tensor)
    assert torch.equal(ours[1].running_mean, model[1].running_mean) and ours[1].num_batches_tracked == 3
    model.train()(torch.full((8, 3), torch.nan))
    average_weights(ours, model, torch.tensor(0.1), torch.tensor(1.0))  # a step that is skipped
    assert all(torch.equal(before[name], tensor) for name, tensor in ours.state_dict().items())
