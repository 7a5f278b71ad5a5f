"""Mixing of clips: one box for all frames, targets that follow the box, and the loss that fits."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine_standins import make_args

from common.settings import from_flags
from engines.loss_settings import LossSettings
from engines.objectives.mixing import balanced_weights, create_criterion, create_mixup


def settings(*flags):
    return from_flags(LossSettings, SimpleNamespace(**make_args(*flags).flags))


def numbered_clips(count=4, frames=5, size=16):
    """Clips whose every pixel is the clip's number."""
    return torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1, 1).expand(count, 3, frames, size, size).clone()


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_cutmix_box_is_the_same_on_all_frames_and_channels(mode):
    np.random.seed(0)
    mixup = create_mixup(settings("--mixup", "0", "--mixup_mode", mode, "--smoothing", "0"), 4)
    mixed = 0
    for _ in range(10):
        clips, targets = mixup(numbered_clips(), torch.arange(4))
        assert clips.shape == (4, 3, 5, 16, 16)
        assert (clips == clips[:, :1, :1]).all()
        share = (clips == numbered_clips()).float().mean((1, 2, 3, 4))
        mixed += int(((share > 0) & (share < 1)).sum())
        torch.testing.assert_close(targets.diagonal(), share)
        torch.testing.assert_close(targets.flip(0).diagonal().flip(0), 1 - share)
    assert mixed > 10


def test_mixup_blends_all_frames_by_one_share():
    np.random.seed(0)
    mixup = create_mixup(settings("--cutmix", "0", "--smoothing", "0"), 4)
    clips, targets = mixup(numbered_clips(), torch.arange(4))
    share = targets[0, 0]
    torch.testing.assert_close(clips[0], torch.full_like(clips[0], (1 - share).item() * 3))


def test_minmax_bounds_the_box():
    np.random.seed(0)
    mixup = create_mixup(settings("--mixup", "0", "--cutmix", "0", "--cutmix_minmax", "0.25", "0.5"), 4)
    for _ in range(20):
        clips, _ = mixup(numbered_clips(), torch.arange(4))
        rows = (clips[0, 0, 0] != 0).any(1).sum()
        assert 4 <= rows < 8


def test_odd_batches_are_refused():
    with pytest.raises(ValueError, match="--batch_size"):
        create_mixup(settings(), 4)(numbered_clips(3), torch.arange(3))


def test_a_minmax_that_is_no_range_is_refused():
    with pytest.raises(ValueError, match="--cutmix_minmax"):
        create_mixup(settings("--cutmix_minmax", "0.8", "0.2"), 4)


def test_the_loss_follows_the_flags():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    off = ("--mixup", "0", "--cutmix", "0")
    for smoothing in (0.0, 0.1):
        chosen = settings(*off, "--smoothing", str(smoothing))
        assert create_mixup(chosen, 4) is None
        expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(create_criterion(chosen, None, labels, 4)(logits, labels), expected)
    chosen = settings("--smoothing", "0.1")
    mixup = create_mixup(chosen, 4)
    _, targets = mixup(numbered_clips(6), labels)
    expected = torch.nn.functional.cross_entropy(logits, targets)
    torch.testing.assert_close(create_criterion(chosen, mixup, labels, 4)(logits, targets), expected)


def test_balanced_weights_are_scikit_learns(caplog):
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0] * 12 + [1] * 3 + [2] * 5
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_weights(labels, 3), expected, rtol=1e-6)
    assert balanced_weights(labels, 4).tolist()[3] == 1 and "1 of 4 classes" in caplog.text


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_balanced_loss_weighs_labels_and_soft_targets(smoothing):
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4), torch.tensor([0, 0, 0, 0, 1, 2])
    weights = balanced_weights(labels, 4)
    flags = ("--class_weights", "balanced", "--smoothing", str(smoothing))
    chosen = settings(*flags, "--mixup", "0", "--cutmix", "0")
    loss = create_criterion(chosen, None, labels, 4)
    summed = torch.nn.functional.cross_entropy(
        logits, labels, weight=weights, label_smoothing=smoothing, reduction="sum"
    )
    torch.testing.assert_close(loss(logits, labels), summed / 6)
    halves = (loss(logits[:2], labels[:2]) + 2 * loss(logits[2:], labels[2:])) / 3
    torch.testing.assert_close(halves, loss(logits, labels), msg="the sum over batches is the loss over all clips")
    chosen = settings(*flags)
    mixup = create_mixup(chosen, 4)
    _, targets = mixup(numbered_clips(6), labels)
    expected = -(weights * targets * logits.log_softmax(-1)).sum(1).mean()
    torch.testing.assert_close(create_criterion(chosen, mixup, labels, 4)(logits, targets), expected)
