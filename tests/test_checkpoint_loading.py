"""Published weights are loaded with the right change to every tensor, and nothing stays random silently."""

import logging

import pytest
import torch
from safetensors.torch import save_file

import run_class_finetuning
from common.settings import from_flags
from engines.configuration import parse_arguments
from models import VideoMambaPro
from models.arguments import WeightSettings
from models.build import load_finetune_checkpoint
from models.checkpoint import CheckpointError, load_checkpoint
from models.checkpoint_file import read_checkpoint_file, unwrap_tensors
from tools.checkpoint import main as checkpoint_tool

SIZE = dict(embed_dim=32, depth=2, patch_size=16)


def build(seed=0, **config):
    torch.manual_seed(seed)
    model = VideoMambaPro(**(SIZE | dict(img_size=32, num_frames=4, num_classes=7) | config))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def image_weights(**config):
    """Weights in the form of the published Tiny: a 2-D patch kernel, no temporal positions, a head of 1000."""
    state = build(num_frames=1, num_classes=1000, **config).state_dict()
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].squeeze(2)
    del state["temporal_pos_embedding"]
    return state


def read_state_dict(path):
    return unwrap_tensors(read_checkpoint_file(path), path)


def saved(tmp_path, content, name="weights.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("wrapper", [None, "model", "module", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "encoder.", "module.backbone."])
def test_wrappers_and_prefixes(tmp_path, wrapper, prefix):
    source = build(seed=1)
    state = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    target = build(seed=2)
    report = load_checkpoint(target, saved(tmp_path, state if wrapper is None else {wrapper: state, "epoch": 3}))
    assert set(report.names("loaded")) == set(source.state_dict())
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name


def test_safetensors(tmp_path):
    source, target = build(seed=1), build(seed=2)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_checkpoint(target, tmp_path / "weights.safetensors")
    assert torch.equal(target.norm_f.weight, source.norm_f.weight)


@pytest.mark.parametrize("tubelet_size", [1, 2, 4])
def test_image_weights_are_inflated_into_the_centre_tap(tmp_path, tubelet_size):
    state = image_weights()
    model = build(seed=2, tubelet_size=tubelet_size)
    before = model.temporal_pos_embedding.clone()
    report = load_checkpoint(model, saved(tmp_path, state))
    kernel = model.patch_embed.proj.weight
    assert torch.equal(kernel[:, :, tubelet_size // 2], state["patch_embed.proj.weight"])
    others = [tap for tap in range(tubelet_size) if tap != tubelet_size // 2]
    assert kernel[:, :, others].abs().sum() == 0
    assert report.names("inflated") == ["patch_embed.proj.weight"]
    assert set(report.names("initialised")) == {"temporal_pos_embedding", "head.weight", "head.bias"}
    assert torch.equal(model.temporal_pos_embedding, before)


def test_inflated_model_gives_the_image_models_features_on_one_frame(tmp_path):
    image_model = build(num_frames=1)
    video_model = build(seed=2, num_frames=1)
    load_checkpoint(video_model, saved(tmp_path, image_model.state_dict()))
    clips = torch.randn(2, 3, 1, 32, 32)
    torch.testing.assert_close(video_model.eval()(clips), image_model.eval()(clips))


def test_positions_are_interpolated_over_resolution_and_frames(tmp_path):
    source = build(seed=1)
    model = build(seed=2, img_size=64, num_frames=8)
    report = load_checkpoint(model, saved(tmp_path, source.state_dict()))
    assert set(report.names("interpolated")) == {"pos_embed", "temporal_pos_embedding"}
    assert torch.equal(model.pos_embed[:, 0], source.pos_embed[:, 0])
    grid = source.pos_embed[:, 1:].detach().reshape(1, 2, 2, -1).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(grid, size=(4, 4), mode="bicubic", align_corners=False)
    torch.testing.assert_close(model.pos_embed.detach()[:, 1:], expected.permute(0, 2, 3, 1).flatten(1, 2))
    first, second = source.temporal_pos_embedding[0, :2].detach()
    torch.testing.assert_close(model.temporal_pos_embedding.detach()[0, 1], 0.75 * first + 0.25 * second)


def test_head_of_kinetics_710_gives_its_first_400_rows(tmp_path):
    source, model = build(seed=1, num_classes=710), build(seed=2, num_classes=400)
    report = load_checkpoint(model, saved(tmp_path, source.state_dict()), require_head=True)
    assert torch.equal(model.head.weight, source.head.weight[:400])
    assert set(report.names("sliced")) == {"head.weight", "head.bias"}


def test_delete_head_leaves_out_a_head_that_would_fit(tmp_path):
    model, path = build(seed=1), saved(tmp_path, build(seed=2).state_dict())
    before = model.head.weight.clone()
    report = load_checkpoint(model, path, without_head=True)
    assert torch.equal(model.head.weight, before) and set(report.names("initialised")) == {"head.weight", "head.bias"}
    load_checkpoint(model, path)
    assert not torch.equal(model.head.weight, before), "the control"
    with pytest.raises(CheckpointError, match="head does not fit"):
        load_checkpoint(model, path, without_head=True, require_head=True)


def test_evaluation_refuses_a_head_that_does_not_fit(tmp_path):
    path = saved(tmp_path, build(seed=1, num_classes=9).state_dict())
    with pytest.raises(CheckpointError, match="head does not fit.*head.weight.*9, 32"):
        load_checkpoint(build(), path, require_head=True)


def test_a_missing_tensor_is_refused_by_name_unless_allowed(tmp_path):
    state = build(seed=1).state_dict()
    del state["layers.1.mixer.x_proj.weight"]
    path = saved(tmp_path, state)
    model = build(seed=2)
    before = model.layers[0].norm.weight.clone()
    with pytest.raises(CheckpointError, match=r"lacks layers\.1\.mixer\.x_proj\.weight"):
        load_checkpoint(model, path)
    assert torch.equal(model.layers[0].norm.weight, before), "a refused file must not touch the model"
    assert load_checkpoint(model, path, allow_random=True).names("initialised") == ["layers.1.mixer.x_proj.weight"]


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (dict(bimamba_type="v2"), {}, "type v2, the model of type v1; use --model videomamba_"),
        ({}, dict(bimamba_type="v2"), "type v1, the model of type v2; use --model videomambapro_"),
        (dict(depth=3), {}, "has 3 layers, the model 2"),
        (dict(embed_dim=48), {}, "cls_token is .*48.*use the --model of that"),
        (dict(tubelet_size=2), {}, "patch_embed.proj.weight is .*2, 16, 16"),
    ],
)
def test_files_of_another_kind_name_what_to_ask_for(tmp_path, theirs, ours, message):
    path = saved(tmp_path, build(seed=1, **theirs).state_dict())
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(build(**ours), path)


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.pth"):
        read_state_dict(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(
        CheckpointError, match="text.pth cannot be read as a checkpoint: it is damaged or has another format"
    ):
        read_state_dict(tmp_path / "text.pth")
    with pytest.raises(
        CheckpointError, match="it contains models.videomambapro.VideoMambaPro, and files that run code"
    ):
        read_state_dict(saved(tmp_path, {"model": build()}))
    with pytest.raises(CheckpointError, match="no tensors"):
        read_state_dict(saved(tmp_path, {"epoch": 3}))
    with pytest.raises(CheckpointError, match="no bidirectional Mamba layers"):
        load_checkpoint(build(), saved(tmp_path, {"layers.0.weight": torch.zeros(3)}))


def test_a_training_may_start_from_weights_without_an_embedding(tmp_path):
    state = {name: tensor for name, tensor in build().state_dict().items() if name.startswith("layers.")}
    words = ["--finetune", str(saved(tmp_path, state)), "--allow_random"]
    args = parse_arguments(run_class_finetuning.get_parser(), words, script=run_class_finetuning.SCRIPT)
    assert "cls_token" in load_finetune_checkpoint(build(seed=2), from_flags(WeightSettings, args)).names(
        "initialised"
    )


def test_the_table_has_a_line_for_every_kind_of_tensor(tmp_path, caplog):
    state = image_weights() | {"fc_norm.weight": torch.zeros(3)}
    with caplog.at_level(logging.INFO, logger="models.checkpoint"):
        load_checkpoint(build(tubelet_size=2), saved(tmp_path, state))
    text = caplog.text
    assert "inflated     patch_embed.proj.weight" in text and "centre tap" in text
    assert "loaded       layers.*.mixer.A_log (x2)" in text
    assert "initialised  head.weight" in text
    assert "unused       fc_norm.weight" in text


def masked_pretraining(tmp_path):
    """A file in the layout of VideoMamba's masked pretraining, and the weights in it under the names used here."""
    state = build(seed=1, bimamba_type="v2", num_classes=0, embed_dim=96, depth=6).state_dict()
    published = {name.replace("norm_f.", "norm."): tensor for name, tensor in state.items()}
    published |= {"clip_decoder.0.head.weight": torch.zeros(512, 96), "clip_decoder.0.norm.bias": torch.zeros(512)}
    return saved(tmp_path, {"model": published, "epoch": 800}), state


def test_masked_pretraining_is_fine_tuned_without_random_tensors(tmp_path, caplog):
    path, weights = masked_pretraining(tmp_path)
    model = build(seed=2, bimamba_type="v2", embed_dim=96, depth=6)
    report = load_finetune_checkpoint(model, WeightSettings(finetune=str(path)))
    assert set(report.names("initialised")) == {"head.weight", "head.bias"}
    assert set(report.names("loaded")) == weights.keys()
    assert set(report.names("unused")) == {"clip_decoder.0.head.weight", "clip_decoder.0.norm.bias"}
    for name, tensor in weights.items():
        assert torch.equal(model.state_dict()[name], tensor), name
    told = [record.getMessage() for record in caplog.records if "layers.5.mixer" in record.getMessage()]
    assert len(told) == 1 and "masked pretraining, no head" in told[0]
    with pytest.raises(CheckpointError, match="head does not fit"):
        load_checkpoint(model, path, require_head=True)


def test_another_norm_does_not_pass_for_the_last_one(tmp_path):
    state = build(seed=1).state_dict()
    state["norm.weight"] = state.pop("norm_f.weight")
    with pytest.raises(CheckpointError, match=r"lacks norm_f\.weight"):
        load_checkpoint(build(), saved(tmp_path, state))


def test_masked_pretraining_is_described_and_converted(tmp_path, capsys):
    path, weights = masked_pretraining(tmp_path)
    converted = tmp_path / "converted.safetensors"
    assert checkpoint_tool(["convert", str(path), str(converted)]) == 0
    for file in (path, converted):
        assert checkpoint_tool(["inspect", str(file)]) == 0
        text = capsys.readouterr().out
        assert "masked pretraining, no head" in text and "layers.5.mixer" in text
        assert f"{sum(tensor.numel() for tensor in weights.values()):,}" in text, "without the decoder's parameters"
        model = build(seed=2, bimamba_type="v2", embed_dim=96, depth=6)
        assert "norm_f.weight" in load_checkpoint(model, file).names("loaded")
