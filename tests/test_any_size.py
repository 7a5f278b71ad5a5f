"""Clips of other sizes than a model was built with: equal to a model of that size, trained, or refused by name."""

import pytest
import torch

from explain.relevance import token_relevance
from inference.predictor import load_predictor
from models.checkpoint import load_checkpoint
from models.positions import resize_spatial, resize_temporal
from models.videomambapro import VideoMambaPro

BUILT = dict(embed_dim=32, depth=2, patch_size=8, num_classes=5, drop_path_rate=0.0, backend="portable")


def model_of(side=32, frames=4, tubelet=1):
    torch.manual_seed(0)
    model = VideoMambaPro(img_size=side, num_frames=frames, tubelet_size=tubelet, **BUILT)
    torch.nn.init.normal_(model.temporal_pos_embedding, std=0.5)
    torch.nn.init.normal_(model.pos_embed, std=0.5)
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.mark.parametrize(
    ("side", "frames", "tubelet"),
    [(32, 4, 1), (48, 4, 1), (16, 4, 1), (32, 9, 1), (32, 1, 1), (56, 6, 2)],
)
def test_a_model_of_another_size_gives_the_same(tmp_path, side, frames, tubelet):
    model = model_of(tubelet=tubelet).eval()
    torch.save({"model": model.state_dict()}, tmp_path / "file.pth")
    built = VideoMambaPro(img_size=side, num_frames=frames, tubelet_size=tubelet, **BUILT).eval()
    load_checkpoint(built, tmp_path / "file.pth")
    clips = torch.randn(2, 3, frames, side, side)
    with torch.no_grad():
        assert torch.equal(model(clips), built(clips))
        if (side, frames) != (32, 4):
            without = built.load_state_dict({"pos_embed": torch.zeros_like(built.pos_embed)}, strict=False)
            assert not without.unexpected_keys and not torch.allclose(model(clips), built(clips), atol=1e-3)


def test_positions_of_a_wide_picture_are_where_its_patches_are():
    rows, columns, side = 3, 14, 7
    x = torch.arange(side, dtype=torch.float64).expand(side, side)
    ramps = torch.stack([x, x.T], dim=-1).flatten(0, 1)  # across, then down
    grid = torch.cat([torch.tensor([[-1.0, -2.0]]), ramps])[None]
    wide = resize_spatial(grid, (side, side), (rows, columns))[0]
    assert wide[0].tolist() == [-1, -2], "the class token's"
    across, down = wide[1:].view(rows, columns, 2).unbind(-1)
    inside = slice(4, 10)  # where the cubic reads no position beyond the edge
    expected = (torch.arange(columns) + 0.5) * side / columns - 0.5
    # PyTorch's cubic keeps a ramp to 0.05 of a place.
    torch.testing.assert_close(across[:, inside], expected[inside].expand(rows, -1).to(across), atol=0.05, rtol=0)
    assert down[1].sub(3).abs().max() < 1e-6 and bool((down[2] > down[1]).all())


def test_training_on_another_size_reaches_the_positions():
    model = model_of()
    model(torch.randn(2, 3, 6, 24, 40)).square().sum().backward()
    spatial, temporal = model.pos_embed.grad.clone(), model.temporal_pos_embedding.grad.clone()
    assert spatial.abs().sum(-1).min() > 0 and temporal.abs().sum(-1).min() > 0

    # The interpolation is a matrix, and its transpose takes the gradient of what it gives to that of the positions.
    identity = torch.eye(17).unsqueeze(0)
    matrix = resize_spatial(identity, (4, 4), (3, 5))[0]  # (1 + 15, 17)
    found = {}
    resized = VideoMambaPro.embed
    clips = torch.randn(2, 3, 4, 24, 40)

    def embed(self, clips):
        tokens = resized(self, clips)
        tokens.retain_grad()
        found["tokens"] = tokens
        return tokens

    model.zero_grad()
    model.embed = embed.__get__(model)
    model(clips).square().sum().backward()
    per_token = found["tokens"].grad.sum(0)
    per_place = torch.cat([per_token[:1], per_token[1:].view(4, 15, -1).sum(0)])
    torch.testing.assert_close(model.pos_embed.grad[0], matrix.T @ per_place, rtol=1e-4, atol=1e-5)


def test_positions_are_never_those_before_a_step():
    model, clips = model_of().eval(), torch.randn(1, 3, 8, 24, 24)
    with torch.no_grad():
        before = model(clips)
        model.pos_embed.data.mul_(-1)  # not counted by autograd's versions, as FSDP's gathering is not
        after = model(clips)
    assert not torch.allclose(before, after, atol=1e-3)


def test_times_are_interpolated_linearly():
    line = resize_temporal(torch.tensor([[[0.0], [1.0], [2.0], [3.0]]]), 8).flatten()
    torch.testing.assert_close(line, torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 32, 32), r"clips must be \(batch, channels, frames, height, width\), got \(1, 3, 32, 32\)"),
        ((1, 3, 5, 32, 32), "clips of frames 5: it must be a multiple of the model's tubelet_size 2"),
        ((1, 3, 4, 36, 32), "clips of height 36: it must be a multiple of the model's patch_size 8"),
        ((1, 3, 4, 32, 30), "clips of width 30: it must be a multiple of the model's patch_size 8"),
        ((1, 3, 4, 32, 0), "clips of width 0: .* patch_size 8"),
    ],
)
def test_what_patches_do_not_fill_is_named(shape, words):
    with pytest.raises(ValueError, match=words):
        model_of(tubelet=2)(torch.zeros(shape))


class TimeFirst(VideoMambaPro):
    def line_up(self, patches):
        return patches.transpose(1, 2).flatten(1, 2)


@pytest.mark.parametrize("kind", [VideoMambaPro, TimeFirst])
def test_patches_of_a_wide_clip_return_to_their_places(kind):
    model = kind(img_size=32, num_frames=4, **BUILT)
    clips = torch.randn(2, 3, 3, 16, 48)
    places = torch.stack(torch.meshgrid(*map(torch.arange, (3, 2, 6)), indexing="ij"), dim=-1)
    lined_up = model.line_up(places.flatten(1, 2).expand(2, -1, -1, -1))
    assert torch.equal(model.in_grid(lined_up, clips), places.expand(2, -1, -1, -1, -1))
    assert token_relevance(model, clips).shape == (2, 3, 2, 6)


def test_a_predictor_takes_clips_of_another_size(tmp_path):
    model = model_of()
    torch.save({"model": model.state_dict(), "model_config": model.config.values()}, tmp_path / "file.pth")
    predictor = load_predictor(tmp_path / "file.pth", device="cpu")
    clips = torch.randn(3, 6, 24, 40)
    expected = model.eval()(clips[None]).softmax(-1)[0]
    torch.testing.assert_close(torch.from_numpy(predictor.predict(clips).probabilities), expected.detach())
    with pytest.raises(ValueError, match="width 30"):
        predictor.predict(torch.randn(3, 6, 24, 30))
