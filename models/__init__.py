"""Models, registered with timm: `timm.create_model("videomambapro_tiny")` works after `import models`."""

from models.videomambapro import VideoMambaPro

__all__ = ["VideoMambaPro"]
