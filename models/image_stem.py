"""A frozen image model in front of the patch embedding: its feature maps take the place of pixels.

Hybrids of a convolutional network and a sequence model came with the vision transformer (arXiv 2010.11929, section
3.1). This image model keeps what it learnt from images, and only what stands above it is trained, for which a few
hundred videos are enough.
"""

from pathlib import Path
from typing import Any, Self

import timm
import torch
from torch import Tensor, nn

from models.image_models import OwnNormalisation, load_image_model

FRAMES_AT_ONCE = 8  # on a CPU: the maps of more leave its caches, and 56 take twice as long as seven times 8


class ImageStem(nn.Module):
    """Maps of an image model of timm for every frame of a clip. Training changes neither weights nor statistics.

    Args:
        name: timm's name of the image model.
        stride: Pixels per cell of a map. The last map with this stride is taken; what follows it is left out.
        img_size: Height and width of the frames.

    Raises:
        ValueError: timm has no such model, or the model has no maps with that stride or of frames of that size.
    """

    def __init__(self, name: str, stride: int, img_size: tuple[int, int]):
        super().__init__()
        self.name, self.stride, self.img_size = name, stride, img_size
        try:
            model: Any = timm.create_model(name)
        except RuntimeError as error:
            raise ValueError(f"--stem {name}: {error}; timm.list_models() tells the names") from error
        levels = list(getattr(model, "feature_info", ()))
        self.level = max((i for i, level in enumerate(levels) if level["reduction"] == stride), default=-1)
        if self.level < 0 or not hasattr(model, "prune_intermediate_layers"):
            strides = sorted({level["reduction"] for level in levels})
            raise ValueError(f"--stem {name} has no maps of --patch_size {stride} pixels, but of {strides}")
        self.out_chans = levels[self.level]["num_chs"]
        self.normalise = OwnNormalisation(model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
        self.model: Any = self._cut(model)

    def _cut(self, model: Any) -> nn.Module:
        """Leave out of an image model what follows the map, and freeze it."""
        if hasattr(model, "set_input_size"):  # a transformer, whose positions are interpolated
            model.set_input_size(img_size=self.img_size)
        model.prune_intermediate_layers([self.level], prune_norm=True, prune_head=True)
        return model.eval().requires_grad_(False)

    def load(self, weights: Path | None) -> None:
        """Load trained weights of the image model.

        Args:
            weights: File with timm's names of the tensors, with the classifier; None for timm's own, downloaded.

        Raises:
            FileNotFoundError, OSError, CheckpointError: As in `load_image_model`.
        """
        dry = next(self.model.parameters()).is_meta  # a dry run's model holds no numbers: it checks a file at most
        if dry and weights is None:
            return
        trained = self._cut(load_image_model(self.name, weights, "--stem_weights"))
        if not dry:
            self.model.load_state_dict(trained.state_dict())

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: dropout and running statistics are as frozen as the weights."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """Map normalised clips (b, 3, t, height, width) to (b, c, t, height / stride, width / stride)."""
        frames = self.normalise(clips.transpose(1, 2).flatten(0, 1))  # (b t, 3, height, width)
        whole = frames.device.type != "cpu" or torch.compiler.is_compiling()  # exported models take any batch
        parts = [frames] if whole else frames.split(FRAMES_AT_ONCE)
        maps = torch.cat([self._maps(part) for part in parts])
        return maps.unflatten(0, (-1, clips.shape[2])).transpose(1, 2)

    def _maps(self, frames: Tensor) -> Tensor:
        frames = frames.contiguous(memory_format=torch.channels_last)
        (maps,) = self.model.forward_intermediates(frames, indices=[self.level], intermediates_only=True)
        return maps
