"""Masks of masked pretraining: counts, order and randomness, and a student that sees the visible tokens only."""

import pytest
import torch
from scipy.stats import chisquare

from models.masks import MASKS, TokenGrid, attention_mask
from models.videomambapro import VideoMambaPro

PUBLISHED = TokenGrid(8, 14, 14)
# Visible patches of a clip at a ratio of 0.8: 1568 - 1254, 8 x (196 - 156), and 3 of 14 rows in each of 8 frames.
VISIBLE = {"random": 314, "tube": 320, "tube_row": 336, "random_row": 336, "attention": 320}


def drawn(kind, clips=3, grid=PUBLISHED, ratio=0.8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if kind == "attention":
        importance = torch.rand(clips, grid.frames, grid.patches, generator=generator)
        return attention_mask(importance, ratio, generator=generator)
    return MASKS[kind](clips, grid, ratio, generator=generator)


def visible(tokens, grid=PUBLISHED):
    """Whether each patch is visible: (clips, frames, rows, columns)."""
    found = torch.zeros(len(tokens), 1 + grid.frames * grid.patches, dtype=torch.bool).scatter_(1, tokens, True)
    return found[:, 1:].unflatten(1, grid)


@pytest.mark.parametrize("kind", VISIBLE)
def test_counts_are_the_published_ones_and_tokens_are_sorted_behind_the_class_token(kind):
    tokens = drawn(kind)
    assert tokens.shape == (3, 1 + VISIBLE[kind]) and tokens.dtype == torch.int64
    assert (tokens[:, 0] == 0).all() and (tokens.diff(dim=1) > 0).all(), "sorted, and none occurs twice"
    assert tokens.max() <= 8 * 196 and tokens.min() == 0
    assert not torch.equal(tokens[0], tokens[1]), "every clip has a mask of its own"
    assert torch.equal(tokens, drawn(kind)) and not torch.equal(tokens, drawn(kind, seed=1))


@pytest.mark.parametrize("kind", VISIBLE)
def test_every_mask_keeps_everything_at_a_ratio_of_zero(kind):
    grid = TokenGrid(2, 3, 4)
    assert torch.equal(drawn(kind, 2, grid, 0.0), torch.arange(25).expand(2, 25))


@pytest.mark.parametrize("kind", VISIBLE)
def test_each_mask_has_its_pattern(kind):
    seen = visible(drawn(kind, clips=20))
    per_frame = seen.flatten(2).sum(-1)
    same_frames = (seen == seen[:, :1]).all()
    whole_rows = (seen.all(-1) == seen.any(-1)).all()
    assert bool(same_frames) == (kind == "tube")
    assert bool(whole_rows) == kind.endswith("_row")
    assert bool((per_frame == per_frame[0, 0]).all()) == (kind in ("attention", "tube", "tube_row"))
    if kind in ("attention", "tube"):
        assert per_frame[0, 0] == 40, "40 of 196 patches a frame at 0.8"


@pytest.mark.parametrize("kind", MASKS)
def test_every_patch_is_as_likely_as_any_other(kind):
    grid = TokenGrid(2, 4, 4)
    counts = visible(drawn(kind, 4000, grid, 0.5), grid).sum(0).float()
    assert counts.sub(2000).abs().max() < 5 * 4000**0.5 / 2


def test_attention_draws_follow_their_weights():
    """Chi-square over 10,000 draws of one of eight patches; the control is the same test with other weights."""
    weights = torch.tensor([0.3, 0.02, 0.1, 0.25, 0.05, 0.13, 0.08, 0.07])
    importance = (2.5 * weights).expand(10_000, 1, 8)  # it need not sum to 1
    tokens = attention_mask(importance, 0.9, generator=torch.Generator().manual_seed(0))  # 8 - int(7.2) = 1
    counts = torch.bincount(tokens[:, 1] - 1, minlength=8)
    assert tokens.shape == (10_000, 2)
    assert chisquare(counts, 10_000 * weights / weights.sum()).pvalue > 0.01
    assert chisquare(counts, 10_000 * weights.roll(1) / weights.sum()).pvalue < 1e-6


def test_several_patches_are_drawn_one_after_another_without_replacement():
    """Of two draws among three, patch i is left out with the probability that sequential draws give."""
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    left_out = torch.stack([
        sum(p[i] * p[j] / (1 - p[i]) for i, j in ((a, b), (b, a))) for a, b in ((1, 2), (0, 2), (0, 1))
    ])  # fmt: skip
    tokens = attention_mask(p.expand(20_000, 1, 3), 0.5, generator=torch.Generator().manual_seed(0))
    counts = 20_000 - torch.bincount(tokens[:, 1:].flatten() - 1, minlength=3)
    assert chisquare(counts, 20_000 * left_out).pvalue > 0.01


def test_attention_that_underflows_still_gives_every_patch():
    importance = torch.zeros(1, 1, 6)
    importance[..., 2] = 1
    tokens = attention_mask(importance, 0.5)
    assert tokens.shape == (1, 4) and 3 in tokens[0].tolist()


def student(**settings):
    torch.manual_seed(0)
    sizes = dict(img_size=32, patch_size=8, num_frames=3, depth=3, embed_dim=32, num_classes=0, drop_path_rate=0.0)
    return VideoMambaPro(**sizes | settings).eval()


@pytest.mark.parametrize("bimamba_type", ["v1", "v2"])
def test_keeping_all_tokens_is_forward_tokens_to_the_bit(bimamba_type):
    model, clips = student(bimamba_type=bimamba_type), torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        whole = model.forward_tokens(clips)
        assert torch.equal(model.forward_tokens(clips, torch.arange(49).expand(2, -1)), whole)
        some = model.forward_tokens(clips, drawn("tube", 2, TokenGrid(3, 4, 4), 0.5))
    assert some.shape == (2, 25, 32) and not torch.allclose(some[:, 0], whole[:, 0])


def test_hidden_patches_do_not_reach_the_student():
    model, clips = student(), torch.randn(1, 3, 3, 32, 32)
    keep = drawn("random", 1, TokenGrid(3, 4, 4), 0.5)
    seen = visible(keep, TokenGrid(3, 4, 4)).repeat_interleave(8, 2).repeat_interleave(8, 3)  # (1, t, 32, 32)
    with torch.no_grad():
        first, other = (model.forward_tokens(torch.where(seen[:, None], clips, noise), keep) for noise in (0.0, 9.0))
        changed = model.forward_tokens(torch.where(seen[:, None], clips + 0.1, 0.0), keep)
    assert torch.equal(first, other) and not torch.equal(first, changed)
