"""Teachers against the published teacher's outputs, attention by hand, every layout of a file, and refusals."""

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from teacher_files import GOLDEN, bare_state, golden_clips, transformers_state
from timm.models.vision_transformer import checkpoint_filter_fn

from models.checkpoint_file import CheckpointError
from models.detection import ActionDetector
from models.teachers import TeacherSettings, load_teacher
from models.videomambapro import VideoMambaPro

NAME = "vit_golden_clip_quickgelu_224"


def build(**settings):
    torch.manual_seed(0)
    sizes = dict(img_size=16, patch_size=8, num_frames=2, depth=2, embed_dim=16, num_classes=0, drop_path_rate=0.0)
    return VideoMambaPro(**sizes | settings)


def load(file, student=None, name=NAME, **settings):
    return load_teacher(TeacherSettings(str(file), name, **settings), student or build())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The golden's weights in every layout: name -> file."""
    folder = tmp_path_factory.mktemp("teachers")
    prefixed = {f"visual.{name}": tensor for name, tensor in bare_state().items()}
    prefixed["visual.conv1.weight"] = prefixed["visual.conv1.weight"].squeeze(2)
    of_timm = checkpoint_filter_fn(dict(prefixed), timm.create_model(NAME, num_classes=6))
    layouts = {"bare": bare_state(), "openai": prefixed | {"transformer.resblocks.0.ln_1.weight": torch.ones(3)}}
    layouts |= {"transformers": transformers_state(), "timm": of_timm, "wrapped": {"state_dict": of_timm}}
    for name, state in layouts.items():
        torch.save(state, folder / f"{name}.pth")
    save_file({name: tensor.contiguous() for name, tensor in prefixed.items()}, folder / "open_clip.safetensors")
    return {path.stem: path for path in folder.iterdir()}


LAYOUTS = ("bare", "openai", "open_clip", "transformers", "timm", "wrapped")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_and_attention_are_those_of_the_published_teacher(files, layout):
    published = load(files[layout], teacher_norm="imagenet", teacher_final_norm=False)
    with torch.no_grad():
        tokens, importance = published(golden_clips())
        normed = load(files[layout], teacher_norm="imagenet")(golden_clips()).tokens
    expected = {name: torch.tensor(GOLDEN[name]) for name in GOLDEN if name.startswith(("tokens", "attention"))}
    torch.testing.assert_close(tokens, expected["tokens_without_ln_post_with_class"], rtol=0, atol=1e-6)
    torch.testing.assert_close(normed[:, 1:], expected["tokens_with_ln_post_patches"], rtol=0, atol=1e-6)
    torch.testing.assert_close(importance.flatten(0, 1), expected["attention"], rtol=0, atol=1e-6)
    assert (tokens[:, 1:] - normed[:, 1:]).abs().max() > 0.1, "the last norm matters"


def test_the_wrong_activation_would_be_seen(files):
    teacher = load(files["bare"], teacher_norm="imagenet", teacher_final_norm=False)
    for block in teacher.vit.blocks:
        block.mlp.act = torch.nn.GELU()
    difference = teacher(golden_clips()).tokens - torch.tensor(GOLDEN["tokens_without_ln_post_with_class"])
    assert difference.abs().max() > 1e-4


def test_importance_is_the_class_tokens_attention_computed_by_hand(files):
    """softmax(q k^T / sqrt(d)) of the last block, from its own input and weights."""
    teacher, clips, seen = load(files["timm"]), torch.randn(2, 3, 2, 16, 16), []
    last = teacher.vit.blocks[-1]
    last.norm1.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.no_grad():
        importance = teacher(clips).importance
        q, k, _ = last.attn.qkv(seen[0]).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)  # (b t, heads, tokens, 4)
        weights = (q @ k.mT / 2).softmax(-1).mean(1)[:, 0, 1:]
    torch.testing.assert_close(importance, weights.unflatten(0, (2, 2)))
    assert (importance.sum(-1) < 1).all(), "the class token's own share is left out"


def test_targets_have_unit_length_and_the_class_target_is_the_mean_over_frames(files):
    teacher, clips = load(files["timm"]), torch.randn(2, 3, 2, 16, 16)
    with torch.no_grad():
        tokens = teacher(clips).tokens
        frames = [teacher.vit.head(teacher.vit.forward_features(teacher.normalise(clips[:, :, t])))
                  for t in range(2)]  # fmt: skip
    assert tokens.shape == (2, 1 + 2 * 4, 6)
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(2, 9))
    torch.testing.assert_close(tokens[:, 0], F.normalize((frames[0][:, 0] + frames[1][:, 0]) / 2, dim=-1))
    torch.testing.assert_close(tokens[:, 5:], F.normalize(frames[1][:, 1:], dim=-1), msg="patches of the second frame")


def test_pixels_are_normalised_as_the_teacher_was_trained(files):
    pixels = torch.rand(1, 3, 2, 16, 16)
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    own_mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1, 1)
    own_std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1, 1)
    with torch.no_grad():
        got = load(files["timm"])((pixels - mean) / std).tokens
        expected = load(files["timm"], teacher_norm="imagenet")((pixels - own_mean) / own_std).tokens
        published = load(files["timm"], teacher_norm="imagenet")((pixels - mean) / std).tokens
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got, published, atol=1e-3)


def test_frames_are_resized_to_the_students_number_of_patches(files):
    student = build(img_size=(32, 48), patch_size=16)
    teacher = load(files["timm"], student)
    clips = torch.randn(1, 3, 2, 32, 48)
    targets = teacher(clips)
    assert targets.tokens.shape == (1, 1 + 2 * 6, 6) and targets.importance.shape == (1, 2, 6)
    frames = F.interpolate(clips[0].transpose(0, 1), (16, 24), mode="bicubic")
    resized = teacher(frames.transpose(0, 1)[None]).tokens
    torch.testing.assert_close(targets.tokens, resized)


def test_a_teacher_is_frozen_and_asleep(files):
    teacher = load(files["timm"])
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())


def test_any_vit_of_timm_gives_its_last_tokens_without_its_classifier(tmp_path):
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=10).eval()
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    teacher = load(tmp_path / "vit.pth", build(img_size=224, patch_size=16), "vit_tiny_patch16_224")
    clips = torch.randn(1, 3, 1, 224, 224)
    with torch.no_grad():
        expected = F.normalize(vit.forward_features(teacher.normalise(clips[:, :, 0])), dim=-1)
        assert teacher.embed_dim == 192
        torch.testing.assert_close(teacher(clips).tokens, expected)


def test_a_model_of_images_of_this_family_teaches_frame_by_frame(tmp_path):
    images = build(num_frames=1, embed_dim=96, depth=6, num_classes=4, img_size=32).eval()
    torch.save({"model": images.state_dict()}, tmp_path / "images.pth")
    teacher = load(tmp_path / "images.pth", build(img_size=32), "")
    clips = torch.randn(2, 3, 2, 32, 32)
    with torch.no_grad():
        targets = teacher(clips)
        frames = [images.forward_tokens(clips[:, :, t : t + 1]) for t in range(2)]
    assert targets.importance is None and teacher.embed_dim == 96
    torch.testing.assert_close(targets.tokens[:, 0], F.normalize((frames[0] + frames[1])[:, 0], dim=-1))
    torch.testing.assert_close(targets.tokens[:, 17:], F.normalize(frames[1][:, 1:], dim=-1))


def test_a_model_of_videos_of_this_family_teaches_its_own_tokens(tmp_path):
    videos = build(embed_dim=96, depth=6, img_size=32).eval()
    torch.save({"model": videos.state_dict()}, tmp_path / "videos.pth")
    clips = torch.randn(2, 3, 2, 32, 32)
    with torch.no_grad():
        tokens = load(tmp_path / "videos.pth", build(img_size=32), "")(clips).tokens
        torch.testing.assert_close(tokens, F.normalize(videos.forward_tokens(clips), dim=-1))


def test_a_detector_of_this_family_teaches_what_its_backbone_sees(tmp_path):
    detector = ActionDetector(build(embed_dim=96, depth=6, img_size=32, num_classes=0).eval(), 5, "concat")
    torch.save({"model": detector.state_dict()}, tmp_path / "detector.pth")
    clips = torch.randn(2, 3, 2, 32, 32)
    with torch.no_grad():
        tokens = load(tmp_path / "detector.pth", build(img_size=32), "")(clips).tokens
        torch.testing.assert_close(tokens, F.normalize(detector.backbone.forward_tokens(clips), dim=-1))


def test_a_distilled_deit_teaches_without_its_two_classifiers(tmp_path):
    deit = timm.create_model("deit_tiny_distilled_patch16_224").eval()
    torch.save(deit.state_dict(), tmp_path / "deit.pth")
    teacher = load(tmp_path / "deit.pth", build(img_size=224, patch_size=16), "deit_tiny_distilled_patch16_224")
    with torch.no_grad():
        assert teacher(torch.randn(1, 3, 1, 224, 224)).tokens.shape == (1, 197, 192)


def test_files_of_openai_name_their_network_and_say_so(tmp_path, caplog):
    with torch.device("meta"):
        vit = timm.create_model("vit_base_patch16_clip_quickgelu_224.openai", num_classes=0)
    state = {"visual.class_embedding": torch.zeros(768), "visual.conv1.weight": torch.zeros(768, 3, 16, 16)}
    state["visual.positional_embedding"] = torch.zeros(197, 768)
    torch.save(state, tmp_path / "ViT-B-16.pth")
    with pytest.raises(CheckpointError, match="does not fit vit_base_patch16_clip_quickgelu_224.openai: it lacks"):
        load(tmp_path / "ViT-B-16.pth", build(img_size=224, patch_size=16), "")
    assert "is taken for OpenAI's CLIP, with QuickGELU" in caplog.text
    assert type(vit.blocks[0].mlp.act).__name__ == "QuickGELU"


@pytest.mark.parametrize(
    ("state", "name", "student", "message"),
    [
        ("bare", "", {}, "name timm's with --teacher_model"),
        ("bare", "vit_nothing", {}, "--teacher_model vit_nothing: .* timm.list_models"),
        ("bare", "resnet18", {}, "no vision transformer with a class token"),
        ("bare", NAME, {"tubelet_size": 2}, "--tubelet_size 2: .* needs --tubelet_size 1"),
        ("timm", "vit_tiny_patch16_224", {}, "has other sizes than vit_tiny_patch16_224|does not fit"),
        ({"fc.weight": torch.ones(2)}, "", {}, "its first tensors are fc.weight"),
    ],
)
def test_what_does_not_serve_is_refused_with_the_remedy(files, tmp_path, state, name, student, message):
    file = files[state] if isinstance(state, str) else tmp_path / "odd.pth"
    if not isinstance(state, str):
        torch.save(state, file)
    with pytest.raises(ValueError, match=message) as refused:
        load(file, build(**student), name)
    assert str(refused.value).count("\n") == 0


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere.pth: there is no such file"):
        load("nowhere.pth")


def test_openais_archive_is_refused_with_the_command_that_converts_it(tmp_path):
    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.visual = torch.nn.Linear(2, 2)

        def forward(self, x):
            return self.visual(x)

    file = tmp_path / "ViT-B-16.pt"
    torch.jit.script(Tower()).save(str(file))
    with pytest.raises(CheckpointError, match="TorchScript archive") as refused:
        load(file)
    command = str(refused.value).partition('python -c "')[2].rstrip('"')
    exec(command)  # noqa: S102  the remedy must work as printed
    assert torch.load(tmp_path / "ViT-B-16.pth", weights_only=True).keys() == {"weight", "bias"}
