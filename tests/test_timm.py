"""The vocabulary of timm's models, held to what timm's own tests ask of a model that is used as a backbone."""

import copy
import json
import math

import pytest
import timm
import torch
from timm.models import FeatureInfo, group_parameters

from models import videomambapro
from models.timm_interface import _places

NAMES = [name for name in timm.list_models("videomamba*") if name in vars(videomambapro)]
SMALL = dict(img_size=32, num_frames=2, depth=3, embed_dim=32, num_classes=5)
CLIPS = torch.randn(2, 3, 2, 32, 48, generator=torch.Generator().manual_seed(0))


def small(name="videomambapro_nano", **settings):
    torch.manual_seed(0)
    return timm.create_model(name, **(SMALL | settings)).eval()


def close(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_description_of_every_model_names_its_tensors(name):
    model = timm.create_model(name, device="meta", dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.float64)}
    cfg, state = model.pretrained_cfg, model.state_dict()
    assert (cfg["architecture"], cfg["num_classes"]) == (name, model.num_classes)
    assert f"{cfg['classifier']}.weight" in state and f"{cfg['first_conv']}.weight" in state
    assert cfg["input_size"] == (model.in_chans, *model.patch_embed.img_size)
    assert model.head_hidden_size == model.num_features == model.get_classifier().in_features
    assert len(set(group_parameters(model, model.group_matcher(coarse=False), reverse=True).values())) > 2
    with pytest.raises(TypeError):
        timm.create_model(name, device="meta", not_an_argument=1)


def test_head_and_features():
    model = small()
    with torch.no_grad():
        features = model.forward_features(CLIPS)
        before = model.forward_head(features, pre_logits=True)
        assert before.shape == (2, model.head_hidden_size)
        close(model.get_classifier()(before), model(CLIPS))
        model.reset_classifier(0)
        assert (model.num_classes, model.config.num_classes) == (0, 0)
        close(model(CLIPS), before)
        model.reset_classifier(7, "token")
        assert model(CLIPS).shape == (2, 7) and model.config.num_classes == 7
    assert small(num_classes=0)(CLIPS).shape == (2, 32)
    with pytest.raises(ValueError, match="global_pool 'avg'"):
        model.reset_classifier(7, "avg")


def test_dropout_is_part_of_what_the_head_reads():
    model = small(fc_drop_rate=0.9).train()
    kept = model.forward_head(torch.ones(2, 32), pre_logits=True)
    assert (kept == 0).float().mean() > 0.5


def test_a_new_head_is_where_the_model_is():
    model = small().to("meta", torch.float64)
    model.reset_classifier(0)
    model.reset_classifier(2)
    assert all((p.device.type, p.dtype) == ("meta", torch.float64) for p in model.get_classifier().parameters())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("frames", [1, 2])
def test_intermediates(frames):
    model, clips = small(), CLIPS[:, :, :frames]
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    with torch.no_grad():
        final, maps = model.forward_intermediates(clips)
        close(final, model.forward_features(clips))
        assert len(maps) == len(info.channels()) == 3
        for channels, reduction, one in zip(info.channels(), info.reduction(), maps, strict=True):
            assert one.shape == (2, channels, frames, math.ceil(32 / reduction), math.ceil(48 / reduction))
        tokens = model.forward_tokens(clips)
        (normed,) = model.forward_intermediates(clips, 1, norm=True, output_fmt="NLC", intermediates_only=True)
        close(normed, tokens[:, 1:])
        pairs = model.forward_intermediates(clips, [-1], True, norm=True, intermediates_only=True)
        close(pairs[0][1], tokens[:, :1])
        close(pairs[0][0].flatten(2).mT, tokens[:, 1:])


def test_intermediates_are_the_streams_between_the_blocks():
    model = small()
    _, maps = model.forward_intermediates(CLIPS, output_fmt="NLC")
    for depth in (1, 2, 3):
        shorter = small(depth=depth)
        shorter.load_state_dict({k: v for k, v in model.state_dict().items() if k in shorter.state_dict()})
        close(shorter.norm_f(maps[depth - 1]), shorter.forward_tokens(CLIPS)[:, 1:])


def test_stopping_early_runs_no_more_blocks():
    model = small()
    _, maps = model.forward_intermediates(CLIPS)
    model.layers[2].forward = None  # calling it would fail
    final, selected = model.forward_intermediates(CLIPS, [0, 1], stop_early=True)
    assert final.shape == (2, 32)
    for one, wanted in zip(selected, maps, strict=False):
        close(one, wanted)


@pytest.mark.parametrize("indices", [0, 4, [3], [-4], []])
def test_blocks_that_are_not_there(indices):
    with pytest.raises(ValueError, match="the model has 3, from 0 to 2"):
        small().forward_intermediates(CLIPS, indices)
    assert _places([-1, 0], 3) == [2, 0] and _places(2, 3) == [1, 2] and _places(None, 3) == [0, 1, 2]


def test_an_unknown_format():
    with pytest.raises(ValueError, match="output_fmt must be one of"):
        small().forward_intermediates(CLIPS, output_fmt="NHWC")


@pytest.mark.parametrize("index", [0, 1, 2])
def test_pruning_keeps_the_features_and_no_unused_parameter(index):
    model = small()
    with torch.no_grad():
        taps = model.forward_intermediates(CLIPS, intermediates_only=True)
    pruned = copy.deepcopy(model)
    places = pruned.prune_intermediate_layers([index], prune_norm=True)
    (one,) = pruned.forward_intermediates(CLIPS, places, intermediates_only=True)
    close(one.detach(), taps[index])
    assert pruned.config.depth == len(pruned.layers) == index + 1
    pruned.train()
    (sum(f.sum() for f in pruned.forward_intermediates(CLIPS, places, intermediates_only=True))).backward()
    assert [name for name, p in pruned.named_parameters() if p.grad is None] == []


def test_pruning_the_last_block_with_the_head_kept_changes_nothing():
    model = small()
    pruned = copy.deepcopy(model)
    pruned.prune_intermediate_layers([2], prune_head=False)
    close(pruned(CLIPS), model(CLIPS))


def test_features_only():
    net = small(features_only=True, out_indices=(0, 2))
    assert (net.feature_info.channels(), net.feature_info.reduction()) == ([32, 32], [16, 16])
    whole = small()
    whole.load_state_dict(net.model.state_dict(), strict=False)
    with torch.no_grad():
        for one, wanted in zip(net(CLIPS), whole.forward_intermediates(CLIPS, [0, 2])[1], strict=True):
            close(one, wanted)


def test_gradient_checkpointing_changes_no_gradient_and_keeps_less():
    gradients, kept = [], []
    for enable in (False, True):
        model = small(drop_path_rate=0.0).train()
        model.set_grad_checkpointing(enable)
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t) or t, lambda t: t):
            final, maps = model.forward_intermediates(CLIPS)
        (final.square().mean() + sum(one.square().mean() for one in maps)).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        kept.append(len(saved))
    assert kept[1] < kept[0]
    for plain, saving in zip(*gradients, strict=True):
        torch.testing.assert_close(saving, plain)
    model.set_grad_checkpointing(False)
    assert model.checkpointed_blocks == 0


def test_a_folder_that_timm_saved_is_a_folder_that_timm_loads(tmp_path):
    model = small(img_size=48, num_frames=4)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "videomambapro_nano"
    close(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(CLIPS), model(CLIPS))
    features = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=0).eval()
    close(features(CLIPS), model.forward_features(CLIPS))


def test_a_folder_is_loaded_at_another_size(tmp_path):
    model = small()
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, img_size=(32, 48), num_frames=4).eval()
    clips = torch.randn(1, 3, 4, 32, 48)
    close(other(clips), model(clips))
