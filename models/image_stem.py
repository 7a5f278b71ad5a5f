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

from models.image_models import OwnNormalisation, load_image_model, require_hosted_weights

FRAMES_AT_ONCE = {"cpu": 8, "cuda": 256}
"""Frames that go through together. On a CPU, 56 take 1.4 times as long as seven times 8, whose maps fit into its
caches; on a GPU, a limit bounds the memory."""
_FLAG = "--stem_weights"


class ImageStem(nn.Module):
    """Maps of an image model of timm for every frame of a clip. Training changes neither weights nor statistics.

    The weights are random until `load` or a checkpoint replaces them.

    Args:
        name: timm's name of the image model.
        stride: Pixels per cell of a map. The last map with this stride is taken; what follows it is left out.
        img_size: Height and width of the frames.

    Raises:
        ValueError: timm has no such model, or the model has no maps with that stride or of frames of that size.
    """

    def __init__(self, name: str, stride: int, img_size: tuple[int, int]):
        super().__init__()
        self.name = name
        model = _create(name)
        levels = list(getattr(model, "feature_info", ()))
        if not hasattr(model, "prune_intermediate_layers"):
            raise ValueError(f"--stem {name}: timm gives no maps of this model; choose another")
        strides = [level["reduction"] for level in levels]
        if stride not in strides:
            raise ValueError(
                f"--stem {name} has no maps of --patch_size {stride} pixels, but of {sorted(set(strides))}"
            )
        self.level = max(index for index, found in enumerate(strides) if found == stride)
        self.out_chans = levels[self.level]["num_chs"]
        self.normalise = OwnNormalisation(model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
        self.model: Any = self._cut(model)
        self._try(stride, *img_size)

    def _cut(self, model: Any) -> nn.Module:
        """Leave out of an image model what follows the map, and freeze it."""
        model.prune_intermediate_layers([self.level], prune_norm=True, prune_head=True)
        return model.eval().requires_grad_(False)

    def _try(self, stride: int, height: int, width: int) -> None:
        """Raise a ValueError unless the map of a frame has a cell for each patch."""
        refusal = f"--stem {self.name} cannot take frames of {height} x {width} pixels (--input_size)"
        try:
            found = tuple(self(torch.zeros(1, 3, 1, height, width)).shape[-2:])
        except (AssertionError, RuntimeError) as error:
            raise ValueError(f"{refusal}: {error}") from error
        if found != (height // stride, width // stride):
            raise ValueError(f"{refusal}: its map is {found[0]} x {found[1]} cells")

    def load(self, weights: str | Path) -> None:
        """Load trained weights of the image model.

        Args:
            weights: File with timm's names of the tensors, with the classifier; empty for timm's own, downloaded.

        Raises:
            FileNotFoundError, OSError, ValueError, CheckpointError: As in `load_image_model`.
        """
        dry = next(self.model.parameters()).is_meta
        if dry and not weights:  # a dry run downloads nothing
            require_hosted_weights(self.name, _FLAG)
            return
        trained = self._cut(load_image_model(self.name, weights, _FLAG))
        if not dry:
            self.model.load_state_dict(trained.state_dict())

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: dropout and running statistics are as frozen as the weights."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """Map normalised clips (b, 3, t, height, width) to (b, c, t, height / stride, width / stride)."""
        frames = self.normalise(clips.transpose(1, 2).flatten(0, 1))  # (b t, 3, height, width)
        limit = FRAMES_AT_ONCE.get(frames.device.type)
        whole = limit is None or torch.compiler.is_compiling()  # exported models take any batch
        maps = torch.cat([self._maps(part) for part in ([frames] if whole else frames.split(limit))])
        return maps.unflatten(0, (-1, clips.shape[2])).transpose(1, 2)

    def _maps(self, frames: Tensor) -> Tensor:
        frames = frames.contiguous(memory_format=torch.channels_last)
        (maps,) = self.model.forward_intermediates(frames, indices=[self.level], intermediates_only=True)
        return maps


def _create(name: str) -> Any:
    """Create an image model with random weights, a transformer with positions that are interpolated for any size."""
    if ":" in name or "/" in name:
        raise ValueError(f"--stem {name} is an address; give a name of timm.list_models()")
    try:
        try:
            return timm.create_model(name, dynamic_img_size=True)
        except TypeError:  # has no positions
            return timm.create_model(name)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"--stem {name}: {error}; timm.list_models() tells the names") from error
