"""Entry points of torch.hub: `torch.hub.load(DIR, "videomambapro_tiny", source="local", num_classes=400)`.

`videomambapro` loads weights: `torch.hub.load(DIR, "videomambapro", "checkpoint.pth", source="local")`. The other
entries are the registered networks with random weights, each with the arguments of `timm.create_model`.
"""

from functools import partial as _partial
from typing import Any as _Any

from timm import create_model as _create_model

from models.videomambapro import REGISTERED as _REGISTERED
from models.videomambapro import VideoMambaPro as _VideoMambaPro

dependencies = ["timm", "einops", "safetensors", "huggingface_hub"]


def videomambapro(weights: str, **changes: _Any) -> _VideoMambaPro:
    """Load a checkpoint, a hub folder or a repository on the hub, in evaluation mode.

    Args:
        weights: File, folder, or OWNER/NAME.
        changes: Fields of `ModelConfig` to change, such as `num_classes` and `num_frames`.
    """
    return _VideoMambaPro.from_pretrained(weights, **changes)


for _name in _REGISTERED:
    globals()[_name] = _partial(_create_model, _name)
    globals()[_name].__doc__ = f"Build {_name} with random weights; the arguments are those of timm.create_model."
