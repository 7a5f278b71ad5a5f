"""Names of a package that are imported when they are first used, because PyTorch and timm take seconds to import."""

import importlib
from collections.abc import Callable, Collection
from typing import Any


def getattr_of(module: str, names: Collection[str], package: str) -> Callable[[str], Any]:
    """Return a `__getattr__` for a package that takes `names` from a module (PEP 562).

    Args:
        module: Where the names are defined.
        names: What the package offers.
        package: Its `__name__`.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module), name)

    return find
