"""Inference with a trained model: predictions, curves over time, heat maps, annotated videos, a local web page.

The names of this package are imported when they are first used: PyTorch takes seconds to import, and the declaration
of flags (`inference/arguments.py`) does not need it.
"""

from typing import TYPE_CHECKING

from common.lazy_imports import getattr_of

if TYPE_CHECKING:
    from inference.predictor import Prediction, Predictor, load_predictor

__all__ = ["Prediction", "Predictor", "load_predictor"]

__getattr__ = getattr_of("inference.predictor", __all__, __name__)
