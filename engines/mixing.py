"""Mixup and CutMix on clips, and the loss that goes with the targets."""

import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn


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


def create_criterion(args, mixup: ClipMixup | None) -> nn.Module:
    """Return the training loss: soft targets with mixing (they carry the smoothing), else smoothed or plain labels."""
    if mixup is not None:
        return SoftTargetCrossEntropy()
    if args.smoothing > 0:
        return LabelSmoothingCrossEntropy(args.smoothing)
    return nn.CrossEntropyLoss()
