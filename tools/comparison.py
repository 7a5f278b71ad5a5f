"""Comparison of an exported model with the original on random clips."""

from collections.abc import Callable

import torch
from torch import Tensor

from models.videomambapro import VideoMambaPro

BATCHES = (1, 2, 3, 4)  # ten random clips

Forward = Callable[[Tensor], Tensor]


def largest_difference(model: VideoMambaPro, exported: Forward) -> float:
    """Return the largest difference of a logit between two models on ten random clips, in batches of several sizes."""
    with torch.no_grad():
        differences = [
            (exported(clips) - model(clips)).abs().max().item()
            for clips in (random_clips(model, batch) for batch in BATCHES)
        ]
    return max(differences)


def random_clips(model: VideoMambaPro, batch: int) -> Tensor:
    """Return clips of normal noise (batch, 3, frames, height, width), the same for every call with this batch size."""
    height, width = model.patch_embed.img_size
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 3, model.num_frames, height, width, generator=generator)
