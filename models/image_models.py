"""Image models of timm with trained weights, and the normalisation of pixels that they expect."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from models.checkpoint_file import CheckpointError, read_checkpoint_file, unwrap_tensors


def require_hosted_weights(name: str, flag: str) -> None:
    """Raise a ValueError if timm knows the model but no weights to download; `flag` names the alternative."""
    known: Any = timm.get_pretrained_cfg(name)  # None for what only a hub knows
    if known and not known.has_weights:
        raise ValueError(f"timm has no weights of {name}; give a file with {flag}")


def load_image_model(name: str, weights: str | Path, flag: str) -> Any:
    """Build a model of timm with trained weights.

    Args:
        name: timm's name.
        weights: File of a state dict with timm's names of the tensors, with the classifier; empty for timm's own,
            which it downloads.
        flag: Flag of `weights`, for messages.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: timm cannot download its weights.
        RuntimeError: timm has no such model.
        ValueError: timm has no weights of it.
        CheckpointError: The file cannot be read, or belongs to another model.
    """
    if not weights:
        require_hosted_weights(name, flag)
        try:
            return timm.create_model(name, pretrained=True)
        except OSError as error:
            raise OSError(f"timm cannot download the weights of {name}; give a file with {flag}: {error}") from error
    model = timm.create_model(name)
    try:
        model.load_state_dict(unwrap_tensors(read_checkpoint_file(weights), weights))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()[:100]
        raise CheckpointError(f"{weights} belongs to another model than {name}: {first} ...") from error
    return model


class OwnNormalisation(nn.Module):
    """Change pixels (..., 3, height, width) from ImageNet's normalisation, that of clips, to an image model's own.

    Args:
        mean: Of the image model's input, per channel.
        std: As `mean`.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        scale = _per_channel(IMAGENET_DEFAULT_STD) / _per_channel(std)
        shift = (_per_channel(IMAGENET_DEFAULT_MEAN) - _per_channel(mean)) / _per_channel(std)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Apply it."""
        return pixels * self.scale + self.shift


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)
