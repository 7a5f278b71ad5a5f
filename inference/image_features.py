"""Features of videos from an image model of timm: what precedes its classifier, averaged over frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import Compose

from datasets.readers import FrameReader
from engines.distributed import resolve_device
from models.image_models import load_image_model


@dataclass(frozen=True)
class ImageFeatures:
    """An image model with its own preprocessing.

    Attributes:
        model: without a classifier, in evaluation mode.
        transform: image -> normalised (3, size, size) of its central square.
        num_frames: most frames of a video that are looked at.
    """

    model: nn.Module
    transform: Compose
    num_frames: int

    @classmethod
    def load(
        cls,
        name: str,
        weights: Path | None,
        *,
        input_size: int | None = None,
        num_frames: int = 8,
        device: str = "cpu",
    ) -> "ImageFeatures":
        """Build a model of timm.

        Args:
            name: timm's name.
            weights: File of a state dict with timm's names of the tensors, also with a classifier; None for timm's
                own, which it downloads.
            input_size: Side of the square that the model sees, in pixels; None for its own.
            num_frames: Most frames of a video.
            device: For example cpu or cuda.

        Raises:
            FileNotFoundError: The file does not exist.
            OSError: timm cannot download its weights.
            RuntimeError: timm has no such model.
            ValueError: It has no features of whole frames, or cannot take frames of that size, or there is no such
                device.
            CheckpointError: The file cannot be read, or belongs to another model.
        """
        target = resolve_device(device)
        model = load_image_model(name, weights or "", "--weights")
        model.reset_classifier(0)
        data = timm.data.resolve_model_data_config(model)
        size = (input_size, input_size) if input_size else data["input_size"][-2:]
        transform = timm.data.create_transform(
            (3, *size), interpolation=data["interpolation"], mean=data["mean"], std=data["std"], crop_pct=1.0
        )
        model = model.eval().to(target)
        _try(model, name, size, target)
        return cls(model, transform, num_frames)

    @torch.inference_mode()
    def __call__(self, reader: FrameReader) -> np.ndarray:
        """Return the features of a video, float32 (width,), averaged over frames in the middles of equal parts."""
        parts = min(self.num_frames, len(reader))
        indices = ((np.arange(parts) + 0.5) * len(reader) / parts).astype(int)
        frames = torch.stack([self.transform(Image.fromarray(frame)) for frame in reader.read(indices)])
        device = next(self.model.parameters()).device
        return self.model(frames.to(device)).float().mean(0).cpu().numpy()


@torch.inference_mode()
def _try(model: nn.Module, name: str, size: Sequence[int], device: torch.device) -> None:
    """Set the size of a transformer, whose positions are interpolated, and look at an empty frame."""
    try:
        if hasattr(model, "set_input_size"):
            model.set_input_size(img_size=tuple(size))
        features = model(torch.zeros(1, 3, *size, device=device))
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"{name} cannot take frames of {size[0]} x {size[1]} pixels (--input_size): {error}"
        ) from error
    if features.ndim != 2:
        raise ValueError(f"{name} has no features of whole frames: its output is {tuple(features.shape)}")
