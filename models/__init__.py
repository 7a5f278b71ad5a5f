"""Models, registered with timm: `timm.create_model("videomambapro_tiny")` works after `import models`.

PyTorch and timm take seconds to import, and the declaration of flags needs neither: `VideoMambaPro` is imported when
it is first used, and the models are registered as soon as timm itself is imported.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.videomambapro import VideoMambaPro

__all__ = ["VideoMambaPro"]


class _RegistersWithTimm(MetaPathFinder):
    """Import the models after timm, once."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                importlib.import_module("models.videomambapro")

            spec.loader.exec_module = exec_module
        return spec


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("models.videomambapro"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if "timm" in sys.modules:
    importlib.import_module("models.videomambapro")
else:
    sys.meta_path.insert(0, _RegistersWithTimm())
