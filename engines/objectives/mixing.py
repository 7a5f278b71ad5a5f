"""Mixup and CutMix on clips, and the loss that goes with the targets."""

import argparse
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from common.flag_types import fraction, non_negative, proper_fraction
from common.settings import add_options, option

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LossSettings:
    """How a classifier is trained; the defaults are those of the published runs.

    Attributes:
        sampler: of the training list, a flag of the data; "balanced" excludes balanced class weights.
    """

    mixup: float = option(0.8, "mixup alpha, 0 for none", non_negative)
    cutmix: float = option(1.0, "cutmix alpha, 0 for none", non_negative)
    cutmix_minmax: tuple[float, float] | None = option(
        None,
        "smallest and largest side of the cutmix box as a share of the frame; switches cutmix on and overrides its "
        "alpha (default: unset)",
        fraction,
        nargs=2,
        metavar=("MIN", "MAX"),
    )
    mixup_prob: float = option(1.0, "probability of mixing a batch at all", fraction)
    mixup_switch_prob: float = option(0.5, "probability of cutmix where both are on", fraction)
    mixup_mode: str = option(
        "batch", "draw the mixing per batch, pair of clips or clip", choices=("batch", "pair", "elem")
    )
    smoothing: float = option(0.1, "label smoothing", proper_fraction)
    class_weights: str = option(
        "none",
        "balanced: weigh each class's loss by the inverse of its share of the training list",
        choices=("none", "balanced"),
    )
    sampler: str = "random"


PLAIN_CROSS_ENTROPY = LossSettings(mixup=0.0, cutmix=0.0, smoothing=0.0)


def add_loss_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `LossSettings` to `parser`."""
    add_options(parser.add_argument_group("mixing and smoothing"), LossSettings)


class ClipMixup:
    """timm's Mixup for clips: the frames become channels, so that the CutMix box is the same on all frames of a clip.

    `mixup` is applied in place where it can be; the arguments are those of `timm.data.Mixup`.
    """

    def __init__(self, mixup: Mixup) -> None:
        self._mixup = mixup

    def __call__(self, clips: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix clips (N, C, T, H, W) with their mirror in the batch; labels (N,) become soft targets (N, classes).

        Raises:
            ValueError: N is odd; timm pairs the clips of a batch.
        """
        if len(clips) % 2:
            raise ValueError(
                f"mixup needs an even number of clips per batch, not {len(clips)}: change --batch_size "
                "or --num_sample, or switch it off with --mixup 0 --cutmix 0"
            )
        mixed, targets = self._mixup(clips.flatten(1, 2), labels)
        return mixed.reshape(clips.shape), targets


def create_mixup(settings: LossSettings, num_classes: int) -> ClipMixup | None:
    """Return the mixing that the settings ask for, None for none.

    Raises:
        ValueError: a range in --cutmix_minmax that is none.
    """
    if settings.mixup <= 0 and settings.cutmix <= 0 and settings.cutmix_minmax is None:
        return None
    sides = settings.cutmix_minmax
    if sides is not None and not 0 <= sides[0] < sides[1] <= 1:
        raise ValueError(f"--cutmix_minmax {sides} must be two shares of the frame, 0 <= MIN < MAX <= 1")
    return ClipMixup(
        Mixup(
            mixup_alpha=settings.mixup,
            cutmix_alpha=settings.cutmix,
            cutmix_minmax=sides,
            prob=settings.mixup_prob,
            switch_prob=settings.mixup_switch_prob,
            mode=settings.mixup_mode,
            label_smoothing=settings.smoothing,
            num_classes=num_classes,
        )
    )


class BalancedCrossEntropy(nn.Module):
    """Cross entropy whose term of class c counts `weights[c]` times: mean over clips of -sum_c w_c target_c log p_c.

    The mean divides by the number of clips and not by the weights in the batch, so that it is the same loss however
    the clips are dealt out to batches and processes.

    Args:
        weights: (classes,). smoothing: of labels; soft targets carry their own.
    """

    weights: torch.Tensor

    def __init__(self, weights: torch.Tensor, smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)  # a checkpoint has only what is trained
        self.smoothing = smoothing

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of logits (N, classes) and labels (N,) or soft targets (N, classes)."""
        if targets.dim() == 1:
            targets = F.one_hot(targets, len(self.weights)) * (1 - self.smoothing)
            targets = targets + self.smoothing / len(self.weights)
        return F.cross_entropy(logits, targets.to(logits.dtype), weight=self.weights)


def balanced_weights(labels: Iterable[int], num_classes: int) -> torch.Tensor:
    """Return a weight for each class, (num_classes,): such that all classes weigh alike and the mean over clips is 1.

    The weight is clips / (classes that occur * clips of the class), scikit-learn's "balanced". A class without clips,
    which label smoothing alone touches, has weight 1.
    """
    counts = torch.bincount(torch.tensor(list(labels)), minlength=num_classes).float()
    there = counts > 0
    if not there.all():
        _logger.warning("%d of %d classes have no training clip", int((~there).sum()), num_classes)
    return torch.where(there, counts.sum() / (there.sum() * counts.clamp(min=1)), 1.0)


def create_criterion(
    settings: LossSettings, mixup: ClipMixup | None, labels: Iterable[int], num_classes: int
) -> nn.Module:
    """Return the training loss: soft targets with mixing (they carry the smoothing), else smoothed or plain labels.

    Args:
        settings: smoothing, class_weights, sampler.
        mixup: of the run.
        labels: of the training clips, from 0 to num_classes - 1.
        num_classes: width of the logits.
    Raises:
        ValueError: the sampler balances the classes already.
    """
    if settings.class_weights == "balanced":
        if settings.sampler == "balanced":
            raise ValueError("--class_weights balanced and --sampler balanced both even out the classes; use one")
        return BalancedCrossEntropy(balanced_weights(labels, num_classes), settings.smoothing)
    if mixup is not None:
        return SoftTargetCrossEntropy()
    if settings.smoothing > 0:
        return LabelSmoothingCrossEntropy(settings.smoothing)
    return nn.CrossEntropyLoss()
