"""Inference with a trained model: predictions, curves over time, heat maps, annotated videos, a local web page.

The names of this package are imported when they are first used: PyTorch takes seconds to import, and the declaration
of flags (`inference/arguments.py`) does not need it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inference.predictor import Prediction, Predictor, load_predictor

__all__ = ["Prediction", "Predictor", "load_predictor"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("inference.predictor"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
