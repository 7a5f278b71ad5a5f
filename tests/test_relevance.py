"""Relevance against networks of which it is known what they look at."""

import pytest
import torch
from torch import nn

from explain.relevance import METHODS, held_logits, token_contributions, token_relevance
from models.videomambapro import VideoMambaPro

SIDE, PATCH, FRAMES = 32, 8, 4


def small_model(seed=0, **switches):
    torch.manual_seed(seed)
    model = VideoMambaPro(
        img_size=SIDE, patch_size=PATCH, depth=3, embed_dim=32, num_classes=5, num_frames=FRAMES, drop_path_rate=0.3,
        dt_init="mamba", **switches,
    )  # fmt: skip
    # as they are initialised all layers give nearly nothing
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def clips_of(batch, seed=1):
    return torch.randn(batch, 3, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scan_input", ["conv", "raw"])
@pytest.mark.parametrize("rms_norm", [True, False])
@pytest.mark.parametrize("bimamba_type", ["v1", "v2"])
def test_the_held_network_gives_the_logits_of_the_model(bimamba_type, rms_norm, scan_input):
    model = small_model(bimamba_type=bimamba_type, rms_norm=rms_norm, scan_input=scan_input)
    clips = clips_of(2)
    with torch.no_grad():
        logits = held_logits(model, model.embed(clips))
        torch.testing.assert_close(logits, model(clips), rtol=1e-4, atol=1e-5)
    assert logits.std() > 0.1


@pytest.mark.parametrize("bimamba_type", ["v1", "v2"])
def test_without_biases_the_pieces_add_up_to_the_logit(bimamba_type):
    model = small_model(bimamba_type=bimamba_type).double()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and "dt_proj" not in name:
            nn.init.zeros_(parameter)
    tokens = model.embed(clips_of(2).double()).detach().requires_grad_()
    logits = held_logits(model, tokens)
    for k in range(5):
        (gradient,) = torch.autograd.grad(logits[:, k].sum(), tokens, retain_graph=True)
        torch.testing.assert_close((gradient * tokens).sum((1, 2)), logits[:, k], rtol=1e-6, atol=1e-8)


class ReadsPlaces(nn.Module):
    """In place of the mixers: the class token gets the sum of what stands in `places`, all others nothing."""

    def __init__(self, places):
        super().__init__()
        self.places = places

    def forward(self, hidden):
        out = torch.zeros_like(hidden)
        out[:, 0] = hidden[:, self.places].sum(1)
        return out


@pytest.mark.parametrize("method", METHODS)
def test_relevance_is_on_the_patches_that_are_read_and_nowhere_else(method, monkeypatch):
    model, places = small_model(), [3, 20, 41]
    monkeypatch.setattr("explain.relevance._held_mixer", lambda mixer, hidden: mixer(hidden))
    for layer in model.layers:
        layer.mixer = ReadsPlaces(places)
    relevance = token_relevance(model, clips_of(3), torch.tensor([0, 1, 2]), method=method)
    assert relevance.shape == (3, FRAMES, SIDE // PATCH, SIDE // PATCH)
    # the class token is the first of the sequence, so a token's patch is one less
    read = torch.zeros(relevance[0].numel(), dtype=torch.bool)
    read[torch.tensor(places) - 1] = True
    assert (relevance.flatten(1)[:, ~read] == 0).all() and (relevance.flatten(1)[:, read] > 0).any()


def test_contributions_add_up_to_what_the_patches_change():
    model, clips = small_model().double(), clips_of(2).double()
    classes = torch.tensor([1, 4])
    contributions = token_contributions(model, clips, classes, steps=64)
    # the same patch everywhere: every pixel of it averaged over the patches
    cells = clips.unflatten(-1, (-1, PATCH)).unflatten(-3, (-1, PATCH))
    level = cells.mean((2, 3, 5), keepdim=True).expand_as(cells).flatten(3, 4).flatten(-2)
    with torch.no_grad():
        change = (model(clips) - model(level)).gather(1, classes[:, None])[:, 0]
    assert change.abs().min() > 0.01
    torch.testing.assert_close(contributions.sum((1, 2, 3)), change, rtol=1e-2, atol=1e-3)


def test_a_planted_object_is_found():
    """A head trained to see one bright patch among noise looks at that patch, wherever it is."""
    torch.manual_seed(0)
    model = VideoMambaPro(img_size=SIDE, patch_size=PATCH, depth=1, embed_dim=32, num_classes=2, num_frames=FRAMES,
                          dt_init="mamba", drop_path_rate=0.0)  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def batch(size):
        clips, labels = 0.3 * torch.randn(size, 3, FRAMES, SIDE, SIDE), torch.randint(2, (size,))
        cells = torch.stack([torch.randint(n, (size,)) for n in (FRAMES, SIDE // PATCH, SIDE // PATCH)], dim=1)
        for clip, label, (t, row, column) in zip(clips, labels, cells.tolist(), strict=True):
            clip[label, t, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH] += 2
        return clips, labels, cells

    for _ in range(50):
        clips, labels, _ = batch(32)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(clips), labels).backward()
        optimiser.step()
    clips, labels, cells = batch(64)
    assert (model.eval()(clips).argmax(1) == labels).float().mean() > 0.95
    relevance = token_relevance(model, clips, labels)
    at_object = relevance[(torch.arange(64), *cells.T)]
    # of 64 patches; chance is 1 / 64
    assert at_object.mean() > 0.3


def test_shares_of_a_clip_whatever_the_mode_and_the_batch():
    model = small_model().train()
    clips = clips_of(3)
    with torch.inference_mode():
        relevance = token_relevance(model, clips)
    assert model.training and not relevance.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert (relevance >= 0).all()
    torch.testing.assert_close(relevance.sum((1, 2, 3)), torch.ones(3))
    predicted = model.eval()(clips).argmax(1)
    torch.testing.assert_close(relevance, token_relevance(model, clips, predicted))
    torch.testing.assert_close(relevance[1:2], token_relevance(model, clips[1:2]), rtol=1e-3, atol=1e-6)
    other = token_contributions(model, clips, (predicted + 1) % 5)
    assert (other - token_contributions(model, clips, predicted)).abs().max() > 1e-4


def test_where_no_patch_is_apart_all_are_equal():
    model = small_model()
    nn.init.zeros_(model.patch_embed.proj.weight)
    relevance = token_relevance(model, clips_of(2))
    torch.testing.assert_close(relevance, torch.full_like(relevance, 1 / relevance[0].numel()))


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="'rollout'"):
        token_relevance(small_model(), clips_of(1), method="rollout")
