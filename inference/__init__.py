"""Using a trained model: predictions for videos, curves over time, pictures, annotated videos, a local web page."""

from inference.predictor import Prediction, Predictor, load_predictor

__all__ = ["Prediction", "Predictor", "load_predictor"]
