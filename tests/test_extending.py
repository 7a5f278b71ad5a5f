"""The worked examples of docs/extending.md: every block runs, and computes what the page says."""

import re
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import _registry

from explain.hidden_attention import channel_matrices
from explain.relevance import token_contributions
from explain.scans import scans_of
from mamba.mamba_ssm.modules.mamba_simple import Mamba
from models.complexity import measure_complexity
from models.mixers import MIXERS
from models.videomambapro import VideoMambaPro, videomambapro_nano
from tests.test_relevance import ReadsPlaces

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = {
    section.partition("\n")[0]: re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    for section in PAGE.split("\n## ")[1:]
}
SMALL = dict(img_size=32, patch_size=16, num_classes=5, num_frames=4)
NANO = dict(embed_dim=48, depth=2, **SMALL)


@pytest.fixture
def example(monkeypatch):
    """Run a section's blocks as one module; the registries are as they were afterwards."""
    before = MIXERS.copy()
    monkeypatch.setattr(_registry, "_model_entrypoints", _registry._model_entrypoints.copy())

    def run(title):
        module = ModuleType("an_example")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec("\n".join(BLOCKS[title]), vars(module))
        return module

    torch.manual_seed(0)
    yield run
    MIXERS.clear()
    MIXERS.update(before)


def trained(model):
    """The model after a backward pass that must reach all its parameters."""
    logits = model(torch.randn(2, 3, 4, 32, 32))
    assert logits.shape == (2, 5)
    F.cross_entropy(logits, torch.tensor([1, 3])).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    return model


@pytest.mark.parametrize("title", BLOCKS)
def test_an_example_takes_three_files_at_most(title):
    files = {block.splitlines()[0].removeprefix("# ") for block in BLOCKS[title]}
    assert 1 <= len(files) <= 3
    assert all((ROOT / name).parent.is_dir() for name in files)


def test_a_third_direction(example):
    module = example("A third scan direction")
    MIXERS["through_time"] = partial(module.ThroughTime, frames=4, places=4)
    model = trained(videomambapro_nano(mixer="through_time", **SMALL))
    mixer, hidden = model.layers[0].mixer.double(), torch.randn(2, 17, 96, dtype=torch.float64)
    assert mixer.order.tolist() == [0, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 4, 8, 12, 16]
    mixer.backend = "portable"
    with torch.no_grad():
        scans = scans_of(mixer, hidden)
        by_matrices = sum(torch.einsum("bdts,bsd->btd", channel_matrices(scan, slice(None)), scan.u) for scan in scans)
        assert len(scans) == 3
        torch.testing.assert_close(mixer(hidden), mixer.out_proj(by_matrices), rtol=1e-6, atol=1e-8)


def test_a_softer_mask_lies_between_the_mask_and_none(example):
    module = example("A softer mask")
    trained(VideoMambaPro(**NANO, mixer="softer_mask"))
    soft, hard = module.SofterMask(32), Mamba(32)
    hard.load_state_dict(soft.state_dict(), strict=False)
    hidden = torch.randn(2, 9, 32)
    with torch.no_grad():
        soft.own_share.fill_(-torch.inf)
        torch.testing.assert_close(soft(hidden), hard(hidden))
        soft.own_share.fill_(torch.inf)
        hard.masked_backward = False
        # the last token, which the backward scan meets first, also misses the residual
        torch.testing.assert_close(soft(hidden)[:, :-1], hard(hidden)[:, :-1], rtol=1e-4, atol=1e-6)


def test_another_order(example, monkeypatch):
    example("Another order of the tokens")
    model = trained(timm.create_model("videomambapro_nano_time_first", **SMALL)).eval()
    plain = VideoMambaPro(**SMALL, embed_dim=96, depth=6).eval()
    plain.load_state_dict(model.state_dict())
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        frames = plain.embed(clips)[:, 1:].unflatten(1, (4, 4))
        torch.testing.assert_close(model.embed(clips)[:, 1:].unflatten(1, (4, 4)), frames.transpose(1, 2))
    monkeypatch.setattr("explain.relevance._held_mixer", lambda mixer, hidden: mixer(hidden))
    for layer in model.layers:
        layer.mixer = ReadsPlaces([7])  # place 1 in frame 2: the class token, four frames of place 0, two of place 1
    contributions = token_contributions(model, clips, torch.tensor([0, 1])).flatten(2)
    assert (contributions != 0).nonzero()[:, 1:].tolist() == [[2, 1]] * 2


def test_another_mixer(example):
    module = example("Another mixer")
    model = VideoMambaPro(**NANO, mixer="ssd")
    costs = measure_complexity(model)
    assert costs.flops > costs.scan_flops > 0 and costs.activation_bytes > 0
    assert trained(model).layers[0].mixer.misfit(Mamba(8).state_dict()) == "holds no layers of state space duality"
    mixer, hidden = module.StateSpaceDuality(8, d_state=3, heads=2), torch.randn(2, 6, 8)
    with torch.no_grad():
        mixer.A_log.copy_(torch.randn(2, 2))
        x, z, B, C, step = mixer.in_proj(hidden).split(mixer.widths, dim=-1)
        d, x = F.softplus(step), x.unflatten(-1, (2, -1))
        wanted = torch.zeros_like(x)
        for direction, tokens in enumerate((range(6), reversed(range(6)))):
            state = torch.zeros(2, 2, 8, 3)
            for t in tokens:
                carried = torch.exp(-d[:, t] * mixer.A_log[direction].exp())[..., None, None] * state
                state = carried + torch.einsum("bh,bhp,bn->bhpn", d[:, t], x[:, t], B[:, t])
                wanted[:, t] += torch.einsum("bhpn,bn->bhp", carried if direction else state, C[:, t])
        torch.testing.assert_close(mixer(hidden), mixer.out_proj(wanted.flatten(2) * F.silu(z)))


def test_an_unknown_mixer_is_named():
    with pytest.raises(ValueError, match="mixer 'attention': there is no such mixer; choose from mamba"):
        VideoMambaPro(**NANO, mixer="attention")


def test_another_head(example):
    model = trained(example("Another head").AttentionPooling(**NANO)).eval()
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        tokens = model.forward_tokens(clips)
        torch.testing.assert_close(model(clips), model.head(tokens.mean(1)))
        model.query.copy_(torch.randn(48) * 100)
        strongest = (tokens @ model.query).argmax(1)
        torch.testing.assert_close(model(clips), model.head(tokens[range(2), strongest]), rtol=1e-2, atol=1e-2)


def test_a_second_objective(example):
    module = example("A second objective")
    torch.manual_seed(0)
    objective = module.ArrowOfTime(VideoMambaPro(**NANO, drop_path_rate=0.0), 5, weight=0.25)
    batch = {"clips": torch.randn(3, 3, 4, 32, 32), "targets": torch.tensor([0, 4, 2])}
    terms = objective(batch)
    turned = torch.stack([batch["clips"][0], batch["clips"][1].flip(1), batch["clips"][2]])
    guesses = objective.arrow(objective.model.forward_features(turned))
    torch.testing.assert_close(terms["arrow"], F.cross_entropy(guesses, torch.tensor([0, 1, 0])))
    classes = module.Classification.forward(objective, batch)["loss"]
    torch.testing.assert_close(terms["loss"], classes + 0.25 * terms["arrow"])
    terms["loss"].backward()
    assert all(p.grad is not None for p in objective.parameters())
