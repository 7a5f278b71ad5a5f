"""Mixup and CutMix on clips, and the classification losses."""

import logging
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.mixup import one_hot
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from engines.loss_settings import LossSettings

_logger = logging.getLogger(__name__)


class ClipMixup:
    """timm's Mixup for clips: frames are treated as channels, so that the CutMix box is the same in all of them.

    Args:
        mixup: Draws and applies the mixing.
        num_classes: Width of the soft targets.
        smoothing: Label smoothing of the soft targets.
    """

    def __init__(self, mixup: Mixup, num_classes: int, smoothing: float) -> None:
        self._mixup, self._num_classes, self._smoothing = mixup, num_classes, smoothing

    def __call__(self, clips: torch.Tensor, labels: torch.Tensor, *rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Mix clips (N, C, T, H, W) with the batch in reverse order; labels (N,) become soft targets (N, classes).

        Args:
            clips: Changed in place where possible.
            labels: Of the clips.
            rows: Further targets (N, width), to be mixed in the same shares.

        Returns:
            clips, soft targets, and the further targets.

        Raises:
            ValueError: see `mix_rows`.
        """
        off = self._smoothing / self._num_classes
        soft = one_hot(labels, self._num_classes, 1 - self._smoothing + off, off)
        return self.mix_rows(clips, soft, *rows)

    def mix_rows(self, clips: torch.Tensor, *rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Mix clips (N, C, T, H, W) and targets (N, width), such as multi-hot labels, in the same shares.

        Raises:
            ValueError: N is odd, and timm pairs the clips of a batch.
        """
        if len(clips) % 2:
            raise ValueError(
                f"mixup needs an even number of clips per batch, not {len(clips)}: change --batch_size "
                "or --num_sample, or switch it off with --mixup 0 --cutmix 0"
            )
        # With its position as its class, the soft target of a clip says how much of which clips it is made of.
        self._mixup.num_classes = len(clips)
        mixed, shares = self._mixup(clips.flatten(1, 2), torch.arange(len(clips), device=clips.device))
        own, other = shares.diagonal()[:, None], shares.flip(1).diagonal()[:, None]
        return mixed.reshape(clips.shape), *(row * own + row.flip(0) * other for row in rows)


def create_mixup(settings: LossSettings, num_classes: int) -> ClipMixup | None:
    """Create the mixing of the settings; None if mixup and cutmix are off.

    Raises:
        ValueError: --cutmix_minmax is not a valid range.
    """
    if settings.mixup <= 0 and settings.cutmix <= 0 and settings.cutmix_minmax is None:
        return None
    sides = settings.cutmix_minmax
    if sides is not None and not 0 <= sides[0] < sides[1] <= 1:
        raise ValueError(f"--cutmix_minmax {sides} must be two fractions of the frame, 0 <= MIN < MAX <= 1")
    return ClipMixup(
        Mixup(
            mixup_alpha=settings.mixup,
            cutmix_alpha=settings.cutmix,
            cutmix_minmax=sides,
            prob=settings.mixup_prob,
            switch_prob=settings.mixup_switch_prob,
            mode=settings.mixup_mode,
            label_smoothing=0.0,
        ),
        num_classes,
        settings.smoothing,
    )


class BalancedCrossEntropy(nn.Module):
    """Weighted cross entropy: mean over clips of -sum_c weights[c] target[c] log p[c].

    The sum is divided by the number of clips, not by the weights in the batch, so that the loss does not depend on how
    the clips are distributed over batches and processes.

    Args:
        weights: (classes,).
        smoothing: label smoothing; soft targets are smoothed already.
    """

    weights: torch.Tensor

    def __init__(self, weights: torch.Tensor, smoothing: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights, persistent=False)  # checkpoints contain only what is trained
        self.smoothing = smoothing

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of logits (N, classes) and labels (N,) or soft targets (N, classes)."""
        if targets.dim() == 1:
            targets = F.one_hot(targets, len(self.weights)) * (1 - self.smoothing)
            targets = targets + self.smoothing / len(self.weights)
        return F.cross_entropy(logits, targets.to(logits.dtype), weight=self.weights)


def balanced_weights(labels: Iterable[int], num_classes: int) -> torch.Tensor:
    """Return class weights (num_classes,) that give all classes the same total weight, with mean 1 over the clips.

    The weight is clips / (classes that occur * clips of the class), as scikit-learn's "balanced". A class without
    clips, which only occurs through label smoothing, has weight 1.
    """
    counts = torch.bincount(torch.tensor(list(labels)), minlength=num_classes).float()
    present = counts > 0
    if not present.all():
        _logger.warning("%d of %d classes have no training clip", int((~present).sum()), num_classes)
    return torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 1.0)


def create_criterion(
    settings: LossSettings, mixup: ClipMixup | None, labels: Iterable[int], num_classes: int
) -> nn.Module:
    """Create the training loss: for soft targets (which include the smoothing) with mixing, else for labels.

    Args:
        settings: smoothing, class_weights and sampler are used.
        mixup: the mixing of the run, or None.
        labels: labels of the training clips, 0 to num_classes - 1.
        num_classes: width of the logits.
    Raises:
        ValueError: both sampler and class weights balance the classes.
    """
    if settings.class_weights == "balanced":
        if settings.sampler == "balanced":
            raise ValueError("--class_weights balanced and --sampler balanced both balance the classes; use one")
        return BalancedCrossEntropy(balanced_weights(labels, num_classes), settings.smoothing)
    if mixup is not None:
        return SoftTargetCrossEntropy()
    if settings.smoothing > 0:
        return LabelSmoothingCrossEntropy(settings.smoothing)
    return nn.CrossEntropyLoss()
