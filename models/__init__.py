"""Models. `from models import VideoMambaPro` registers them with timm: `timm.create_model("videomambapro_tiny")`.

`import models` alone registers nothing: PyTorch and timm take seconds to import, and the declaration of flags
(`models/arguments.py`) needs neither, so `VideoMambaPro` is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.videomambapro import VideoMambaPro

__all__ = ["VideoMambaPro"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("models.videomambapro"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
