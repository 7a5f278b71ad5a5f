"""An image model in front of the patch embedding: against timm's own feature extractor, frozen, saved and loaded."""

import pytest
import timm
import torch

from benchmarks.few_videos import stem_features
from engines.early_check import check_command_line
from models.arguments import WeightSettings
from models.build import load_finetune_checkpoint
from models.checkpoint import load_checkpoint
from models.checkpoint_file import CONFIG_KEY, CheckpointError
from models.complexity import measure_complexity
from models.describe import describe_checkpoint
from models.detection import ActionDetector
from models.image_stem import FRAMES_AT_ONCE
from models.videomambapro import VideoMambaPro

NAME, STRIDE, SIDE, CHANNELS = "test_resnet", 16, 64, 192
IMAGENET = (torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225]))


@pytest.fixture(scope="module")
def image_model():
    """An image model of timm with random weights, and with statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = timm.create_model(NAME)
    with torch.no_grad():
        model.train()(torch.randn(16, 3, SIDE, SIDE))
    return model.eval()


@pytest.fixture(scope="module")
def file(image_model, tmp_path_factory):
    """Its file."""
    path = tmp_path_factory.mktemp("stem") / "stem.pth"
    torch.save(image_model.state_dict(), path)
    return path


def build(**settings):
    torch.manual_seed(1)
    sizes = dict(img_size=SIDE, patch_size=STRIDE, num_frames=4, embed_dim=16, depth=2, num_classes=3, stem=NAME)
    return VideoMambaPro(**(sizes | settings))


def test_its_maps_are_those_of_timms_feature_extractor(image_model, file):
    model = build()
    model.patch_embed.stem.load(file)
    levels = timm.create_model(NAME, features_only=True, out_indices=(3,)).eval()
    levels.load_state_dict({name: tensor for name, tensor in image_model.state_dict().items()
                            if name in levels.state_dict()})  # fmt: skip
    frames = FRAMES_AT_ONCE["cpu"] + 2  # more than go through at once
    pixels = torch.rand(1, 3, frames, SIDE, SIDE)
    mean, std = (values.view(3, 1, 1, 1) for values in IMAGENET)
    own_mean, own_std = (torch.tensor(image_model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    maps = model.patch_embed.stem((pixels - mean) / std)
    assert maps.shape == (1, CHANNELS, frames, 4, 4)
    with torch.no_grad():
        for frame in range(frames):
            (expected,) = levels((pixels[:, :, frame] - own_mean) / own_std)
            torch.testing.assert_close(maps[:, :, frame], expected, rtol=1e-4, atol=1e-5)


def test_training_changes_neither_its_weights_nor_its_statistics(file):
    model = build().train()
    model.patch_embed.stem.load(file)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        model(torch.randn(2, 3, 4, SIDE, SIDE)).square().sum().backward()
        optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert "patch_embed.proj.weight" in changed
    assert not any(name.startswith("patch_embed.stem.") for name in changed)


def test_a_token_sees_its_cell_of_its_own_frame():
    model = build(patch_size=4, img_size=32).eval()
    clips = torch.randn(1, 3, 4, 32, 32)
    other = clips.clone()
    other[:, :, 2, 28:, 28:] += 1
    changed = (model.patch_embed(other) - model.patch_embed(clips)).abs().amax(-1)[0] > 1e-6  # (t, p)
    assert changed[2, -1] and not changed[2, 0]
    assert not changed[[0, 1, 3]].any()


def test_tubelets_detectors_and_other_sizes_work_as_with_pixels():
    model = build(tubelet_size=2, num_frames=4).eval()
    with torch.no_grad():
        assert model.forward_tokens(torch.randn(2, 3, 4, SIDE, SIDE)).shape == (2, 1 + 2 * 16, 16)
        assert model(torch.randn(1, 3, 8, SIDE, 96)).shape == (1, 3)
        maps = model.forward_intermediates(torch.randn(1, 3, 4, SIDE, 96), indices=1, intermediates_only=True)
        assert maps[0].shape == (1, 16, 2, 4, 6)
        detector = ActionDetector(build(num_classes=0), 5, "mean").eval()
        assert detector(torch.randn(1, 3, 4, SIDE, SIDE), [torch.tensor([[8.0, 8, 40, 40]])]).shape == (1, 5)
    with pytest.raises(ValueError, match="patch_size 16"):
        model(torch.randn(1, 3, 4, SIDE, 100))


@pytest.mark.parametrize("built_for", [(48, 32), 160])
def test_a_transformer_interpolates_its_positions(built_for, tmp_path):
    torch.manual_seed(0)
    vit = timm.create_model("test_vit").eval()  # 160 pixels
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    trained = build(stem="test_vit", img_size=160)
    trained.patch_embed.stem.load(tmp_path / "vit.pth")
    torch.save({"model": trained.state_dict(), CONFIG_KEY: trained.config.values()}, tmp_path / "run.pth")
    model = build(stem="test_vit", img_size=built_for)
    load_checkpoint(model, tmp_path / "run.pth")
    vit.set_input_size(img_size=(48, 32))
    frame = torch.randn(1, 3, 48, 32)
    pixels = frame * IMAGENET[1].view(3, 1, 1) + IMAGENET[0].view(3, 1, 1)
    with torch.no_grad():
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed((pixels - 0.5) / 0.5)))
        tokens = vit.blocks(x)[:, vit.num_prefix_tokens :]
    maps = model.patch_embed.stem(frame.unsqueeze(2))[:, :, 0]
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), tokens, rtol=1e-4, atol=1e-5)


def test_a_run_loads_it_from_a_file_and_a_checkpoint_brings_it_along(file, image_model, tmp_path):
    model = build()
    assert load_finetune_checkpoint(model, WeightSettings(stem_weights=str(file))) is None
    assert torch.equal(model.patch_embed.stem.model.conv1[0].weight, image_model.conv1[0].weight)
    torch.save({"model": model.state_dict(), CONFIG_KEY: model.config.values()}, tmp_path / "run.pth")
    again = build()
    report = load_finetune_checkpoint(again, WeightSettings(finetune=str(tmp_path / "run.pth")))
    assert report is not None and not report.names("initialised")
    clips = torch.randn(2, 3, 4, SIDE, SIDE)
    torch.testing.assert_close(again.eval()(clips), model.eval()(clips))


def test_what_cannot_serve_is_refused_with_the_remedy(file, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--stem nothing: .*list_models"):
        build(stem="nothing")
    with pytest.raises(ValueError, match=r"no maps of --patch_size 14 pixels, but of \[2, 4, 8, 16, 32\]"):
        build(patch_size=14, img_size=56)
    with pytest.raises(ValueError, match="in_chans must be 3"):
        build(in_chans=1)
    with pytest.raises(ValueError, match=r"test_coatnet cannot take frames of 64 x 64 pixels \(--input_size\)"):
        build(stem="test_coatnet")
    with pytest.raises(ValueError, match="hf_hub:timm/resnet18 is an address"):
        build(stem="hf_hub:timm/resnet18")
    with pytest.raises(ValueError, match="timm has no weights of seresnet18; give a file with --stem_weights"):
        build(stem="seresnet18").patch_embed.stem.load("")
    with pytest.raises(ValueError, match="the model has none; add --stem NAME"):
        load_finetune_checkpoint(build(stem=""), WeightSettings(stem_weights=str(file)))
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=f"vit.pth belongs to another model than {NAME}"):
        build().patch_embed.stem.load(tmp_path / "vit.pth")

    def offline(*_, **__):
        raise OSError("cannot reach the hub")

    model = build()
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(OSError, match=f"weights of {NAME}; give a file with --stem_weights: cannot reach the hub"):
        model.patch_embed.stem.load("")


def test_a_missing_file_is_told_before_torch_is_imported(tmp_path, capsys):
    words = ["--stem", NAME, "--stem_weights", str(tmp_path / "none.pth"), "--data_path", str(tmp_path)]
    with pytest.raises(SystemExit):
        check_command_line("run_class_finetuning.py", words)
    assert "none.pth: there is no such file" in capsys.readouterr().err


def test_weights_of_another_stem_are_refused(tmp_path):
    model = build()
    torch.save({"model": model.state_dict(), CONFIG_KEY: model.config.values()}, tmp_path / "run.pth")
    with pytest.raises(CheckpointError, match=f"--stem test_convnext2, the file has {NAME}"):
        load_checkpoint(build(stem="test_convnext2"), tmp_path / "run.pth")
    facts = describe_checkpoint(tmp_path / "run.pth")
    assert facts.config["stem"] == NAME
    assert facts.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_exported_it_takes_any_batch():
    embed = build().eval().patch_embed
    sizes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(embed, (torch.randn(2, 3, 4, SIDE, SIDE),), dynamic_shapes=sizes)
    clips = torch.randn(5, 3, 4, SIDE, SIDE)
    torch.testing.assert_close(program.module()(clips), embed(clips), rtol=1e-4, atol=1e-5)


def test_a_dry_run_downloads_nothing_and_checks_a_file(tmp_path, monkeypatch):
    with torch.device("meta"):
        model = build()
    with monkeypatch.context() as patch:
        patch.setattr("models.image_stem.load_image_model", None)
        load_finetune_checkpoint(model, WeightSettings())
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_finetune_checkpoint(model, WeightSettings(stem_weights=str(tmp_path / "vit.pth")))


def test_the_benchmark_of_few_videos_averages_its_maps(file):
    stem = build().patch_embed.stem
    stem.load(file)
    clips = torch.randint(0, 256, (2, 1, 3, 4, SIDE, SIDE), dtype=torch.uint8)
    pixels = (clips[1, 0] / 255 - IMAGENET[0].view(3, 1, 1, 1)) / IMAGENET[1].view(3, 1, 1, 1)
    expected = torch.stack([stem(pixels[None, :, [frame]]).mean((0, 2, 3, 4)) for frame in range(4)]).mean(0)
    torch.testing.assert_close(torch.from_numpy(stem_features(stem, clips)[1]), expected, rtol=1e-4, atol=1e-5)


def test_no_flag_lets_it_stay_random(tmp_path):
    model = build()
    lacking = {name: tensor for name, tensor in model.state_dict().items() if "stem.model.layer1" not in name}
    torch.save({"model": lacking}, tmp_path / "lacking.pth")
    with pytest.raises(CheckpointError, match="lacks patch_embed.stem.*since a stem is never trained"):
        load_checkpoint(build(), tmp_path / "lacking.pth", allow_random=True)


def test_its_operations_are_counted():
    model = build(stem="resnet18", patch_size=32, img_size=224, num_frames=2, depth=1)
    bare = build(stem="", patch_size=32, img_size=224, num_frames=2, depth=1)
    extra = measure_complexity(model).flops - measure_complexity(bare).flops
    # 1.814 billion multiply-adds per picture (torchvision), less its classifier; the projections differ by the depth
    # of what they project.
    projections = 2 * 2 * 49 * 16 * (512 - 3 * 32 * 32)
    assert measure_complexity(model).stem_flops == extra - projections
    assert extra - projections == pytest.approx(2 * 2 * (1.814e9 - 512e3), rel=2e-3)
