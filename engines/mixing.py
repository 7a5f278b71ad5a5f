"""Mixup and CutMix on clips, and the loss that goes with the targets."""

import logging
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

_logger = logging.getLogger(__name__)


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


def create_mixup(args, num_classes: int) -> ClipMixup | None:
    """Return the mixing that the flags ask for, None for none.

    Raises:
        ValueError: a range in --cutmix_minmax that is none.
    """
    if args.mixup <= 0 and args.cutmix <= 0 and args.cutmix_minmax is None:
        return None
    if args.cutmix_minmax is not None and not 0 <= args.cutmix_minmax[0] < args.cutmix_minmax[1] <= 1:
        raise ValueError(f"--cutmix_minmax {args.cutmix_minmax} must be two shares of the frame, 0 <= MIN < MAX <= 1")
    return ClipMixup(
        Mixup(
            mixup_alpha=args.mixup,
            cutmix_alpha=args.cutmix,
            cutmix_minmax=args.cutmix_minmax,
            prob=args.mixup_prob,
            switch_prob=args.mixup_switch_prob,
            mode=args.mixup_mode,
            label_smoothing=args.smoothing,
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

    def __init__(self, weights: torch.Tensor, smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
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


def create_criterion(args, mixup: ClipMixup | None, labels: Iterable[int], num_classes: int) -> nn.Module:
    """Return the training loss: soft targets with mixing (they carry the smoothing), else smoothed or plain labels.

    Args:
        args: smoothing; class_weights, "balanced" to weigh the classes by `balanced_weights`.
        mixup: of the run. labels: of the training clips, from 0 to num_classes - 1.
    Raises:
        ValueError: the sampler balances the classes already.
    """
    if args.class_weights == "balanced":
        if getattr(args, "sampler", "") == "balanced":
            raise ValueError("--class_weights balanced and --sampler balanced both even out the classes; use one")
        return BalancedCrossEntropy(balanced_weights(labels, num_classes), args.smoothing)
    if mixup is not None:
        return SoftTargetCrossEntropy()
    if args.smoothing > 0:
        return LabelSmoothingCrossEntropy(args.smoothing)
    return nn.CrossEntropyLoss()
