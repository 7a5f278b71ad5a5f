"""Inference with a trained model: predictions, curves over time, heat maps, annotated videos, a local web page."""

from inference.predictor import Prediction, Predictor, load_predictor

__all__ = ["Prediction", "Predictor", "load_predictor"]
