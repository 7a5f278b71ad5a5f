"""How clips are read for a model, as plain values for files that leave this repository."""

from typing import Any

from common.frame_size import shorter
from datasets.sampling import SAMPLERS
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from inference.predictor import Predictor


def describe_reading(predictor: Predictor) -> dict[str, Any]:
    """Return sampling, views, resizing and normalisation; docs/export.md explains the entries."""
    plan = predictor.plan
    resize = plan.transform.steps[0]
    return {
        "sampling": next(name for name, function in SAMPLERS.items() if function is plan.sample.func),
        "sampling_rate": plan.sample.keywords.get("sampling_rate"),
        "segments": plan.segments,
        "crops": plan.crops,
        "window_seconds": predictor.window,
        "window_stride": predictor.window_stride,
        "short_side": shorter(resize.size),
        "interpolation": resize.interpolation,
        "antialias": resize.antialias,
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
    }
