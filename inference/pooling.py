"""Pooling of a model's tokens into features."""

import torch
from torch import Tensor

from inference.defaults import LOGITS, POOLS
from models.videomambapro import VideoMambaPro


def pool_features(model: VideoMambaPro, clips: Tensor, pool: str) -> Tensor:
    """Compute features of clips (b, 3, frames, height, width) after the last norm.

    Args:
        model: d = its width, t = tubelets of a clip in time, p = patches of a frame.
        clips: normalised.
        pool: "class": (b, d), what the head reads; "mean" of all patches: (b, d); "frames": (b, t, d), the mean of the
            patches of each frame; "tokens": (b, 1 + t p, d), the class token and then the patches, frame by frame;
            "logits": (b, classes), the head's outputs.

    Raises:
        ValueError: `pool` is none of these.
    """
    if pool not in POOLS:
        raise ValueError(f"pool {pool!r} is none of {', '.join(POOLS)}")
    if pool == LOGITS:
        return model(clips)
    if pool == "class":
        return model.forward_features(clips)
    tokens = model.forward_tokens(clips)
    patches = model.in_grid(tokens[:, 1:], clips)  # (b, t, rows, columns, d)
    if pool == "tokens":
        return torch.cat([tokens[:, :1], patches.flatten(1, 3)], dim=1)
    return patches.mean((2, 3) if pool == "frames" else (1, 2, 3))
