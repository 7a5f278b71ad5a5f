"""The table of published weights: complete, as the model zoo reports it, and a file is compared with it."""

from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import models.videomambapro  # noqa: F401  registers the models
from models.checkpoint import load_checkpoint
from models.describe import describe_checkpoint
from tools.checkpoint import main as checkpoint_tool
from tools.weights import differences, document, main, published_weights

ROOT = Path(__file__).parent.parent
TINY = "videomamba_t16_k400_f8_res224.pth"


def test_the_document_is_the_table():
    assert (ROOT / "docs" / "weights.md").read_text(encoding="utf-8") == document()


def test_the_table_holds_what_the_model_zoo_reports():
    table = published_weights()
    # files of VideoMamba's model zoo: images 10, Kinetics-400 20 and a pretraining, SSV2 12 and a pretraining, ...
    assert Counter(weights.data for weights in table.values()) == {
        "imagenet": 11, "k400": 21, "ssv2": 13, "breakfast": 8, "coin": 8, "video-text": 3,
    }  # fmt: skip
    # one of each kind, written down from it: model, frames, size, views, top-1
    for file, facts in {
        TINY: ("videomamba_tiny", 8, 224, "4 x 3", "76.9"),
        "videomamba_m16_k400_mask_ft_f64_res224to384.pth": ("videomamba_middle", 64, 384, "4 x 3", "85.0"),
        "videomamba_s16_ssv2_f16_res224to288.pth": ("videomamba_small", 16, 288, "2 x 3", "68.1"),
        "videomamba_s16_in1k_res224to448to576.pth": ("videomamba_small", 1, 576, "", "83.5"),
        "videomamba_t16_coin_f64_res224.pth": ("videomamba_tiny", 64, 224, "10 x 3", "87.0"),
    }.items():
        weights = table[file]
        assert (weights.model, weights.frames, weights.size, weights.views, weights.reported) == facts
        assert weights.address.endswith(f".aliyuncs.com/videomamba/{file}")
    assert not table["videomambapro_t16_in1k_res224.pth"].address, "nobody has seen one"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of the published tiny model's shapes."""
    path = tmp_path_factory.mktemp("weights") / TINY
    torch.save({"model": timm.create_model("videomamba_tiny", num_classes=400, num_frames=8).state_dict()}, path)
    return path


def test_a_file_is_compared_with_the_table(weights, capsys):
    assert main(["check", str(weights)]) == 0
    assert f"those of {TINY}" in capsys.readouterr().out
    assert main(["check", str(weights), "--name", "videomamba_s16_ssv2_f16_res224.pth"]) == 1
    printed = capsys.readouterr().out
    for difference in ("num_classes is 400, should be 174", "num_frames is 8, should be 16", "embed_dim is 192"):
        assert difference in printed
    pro = published_weights()["videomambapro_t16_in1k_res224.pth"]
    assert "bimamba_type is v2, should be v1" in differences(pro, weights)


def test_a_hub_folder_is_compared_by_the_file_in_it(weights, tmp_path, capsys):
    save_file(torch.load(weights)["model"], tmp_path / "model.safetensors")
    assert main(["check", str(tmp_path), "--name", TINY]) == 0
    assert f"{tmp_path / 'model.safetensors'}: size" in capsys.readouterr().out


def test_the_base_image_model_starts_a_video_model(tmp_path, capsys):
    path = tmp_path / "videomamba_b16_in1k_res224.pth"
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = timm.create_model("videomamba_base", num_classes=1000, num_frames=1).state_dict()
    # one value a tensor, so that 98 M parameters make a small file; VideoMamba's images have no temporal positions
    state = {name: torch.full((1,), i / 1000).expand(tensor.shape) for i, (name, tensor) in enumerate(shapes.items())}
    del state["temporal_pos_embedding"]
    torch.save({"model": state}, path)
    assert main(["check", str(path)]) == 0
    assert main(["show", path.name]) == 0
    assert f"--model videomamba_base --finetune {path.name}" in capsys.readouterr().out
    assert describe_checkpoint(path).model == "videomamba_base"
    assert checkpoint_tool(["inspect", str(path)]) == 0
    assert "videomamba_base" in capsys.readouterr().out
    with torch.device("meta"):
        model = timm.create_model("videomamba_base", num_classes=400, num_frames=8)
    report = load_checkpoint(model, path)
    assert report.names("initialised") == ["temporal_pos_embedding", "head.weight", "head.bias"]


def test_show_and_list(capsys):
    assert main([]) == 0 and capsys.readouterr().out.count("\n") == len(published_weights()) + 3
    assert main(["show", TINY]) == 0
    printed = capsys.readouterr().out
    assert f"--model videomamba_tiny --finetune {TINY}" in printed and "--data_set k400" in printed
    assert "sha256      unknown" in printed
    assert main(["show", "videomamba_t16_k400_f9_res224.pth"]) == 1
    assert f"did you mean {TINY}" in capsys.readouterr().err
