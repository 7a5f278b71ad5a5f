"""Relevance, tested with networks whose relevant inputs are known."""

import pytest
import torch
from torch import nn

from explain.relevance import METHODS, held_logits, token_contributions, token_relevance
from models.videomambapro import VideoMambaPro

SIDE, PATCH, FRAMES = 32, 8, 4
CORRELATION = {"integrated": 0.9, "hidden_attention": 0.5}


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
    """Replaces the mixers: the class token gets the sum of the tokens at `places`, all others get nothing."""

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
    contributions = token_contributions(model, clips_of(3), torch.tensor([0, 1, 2]), method=method)
    assert contributions.shape == (3, FRAMES, SIDE // PATCH, SIDE // PATCH)
    # the class token is the first of the sequence, so a token's patch is one less
    read = torch.zeros(contributions[0].numel(), dtype=torch.bool)
    read[torch.tensor(places) - 1] = True
    assert ((contributions.flatten(1) != 0) == read).all()


def test_contributions_add_up_to_what_the_patches_change():
    model, clips = small_model().double(), clips_of(2).double()
    classes = torch.tensor([1, 4])
    contributions = token_contributions(model, clips, classes, steps=16)
    # the same patch everywhere: every pixel of it averaged over the patches
    cells = clips.unflatten(-1, (-1, PATCH)).unflatten(-3, (-1, PATCH))
    level = cells.mean((2, 3, 5), keepdim=True).expand_as(cells).flatten(3, 4).flatten(-2)
    with torch.no_grad():
        change = (model(clips) - model(level)).gather(1, classes[:, None])[:, 0]
    assert change.abs().max() > 0.01
    tolerance = 0.02 * change.abs().max().item()
    torch.testing.assert_close(contributions.sum((1, 2, 3)), change, rtol=1e-2, atol=tolerance)


@pytest.mark.parametrize("method", METHODS)
def test_contributions_tell_what_hiding_a_patch_changes(method):
    """Against the occlusion of one patch after another by the mean patch, in passes of the model alone."""
    model, clips = small_model(), clips_of(1)
    found = token_contributions(model, clips, torch.tensor([2]), method=method).flatten()
    cells = clips.unflatten(-1, (-1, PATCH)).unflatten(-3, (-1, PATCH))
    mean = cells.mean((2, 3, 5))[0]
    hidden = []
    for t, row, column in torch.cartesian_prod(*(torch.arange(n) for n in (FRAMES, SIDE // PATCH, SIDE // PATCH))):
        occluded = cells.clone()
        occluded[0, :, t, row, :, column] = mean
        hidden.append(occluded.flatten(3, 4).flatten(-2))
    with torch.no_grad():
        change = model(clips)[0, 2] - model(torch.cat(hidden))[:, 2]
    # 64 patches: chance is 0 with a standard deviation of 0.13
    assert torch.corrcoef(torch.stack([found, change]))[0, 1] > CORRELATION[method]


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


def test_without_evidence_no_patch_has_any_relevance():
    model = small_model()
    nn.init.zeros_(model.patch_embed.proj.weight)
    assert (token_relevance(model, clips_of(2)) == 0).all()


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="'rollout'"):
        token_relevance(small_model(), clips_of(1), method="rollout")
