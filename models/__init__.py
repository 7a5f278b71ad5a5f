"""Models. `from models import VideoMambaPro` registers them with timm: `timm.create_model("videomambapro_tiny")`.

`import models` alone registers nothing: PyTorch and timm take seconds to import, and the declaration of flags
(`models/arguments.py`) needs neither, so `VideoMambaPro` is imported when it is first used.
"""

from typing import TYPE_CHECKING

from common.lazy_imports import getattr_of

if TYPE_CHECKING:
    from models.videomambapro import VideoMambaPro

__all__ = ["VideoMambaPro"]

__getattr__ = getattr_of("models.videomambapro", __all__, __name__)
