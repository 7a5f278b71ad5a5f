"""Statistics of predicted numbers, from scikit-learn and SciPy."""

import warnings
from typing import Any

import numpy as np


def of_target(targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    """Return mae, mse, r2, pearson and spearman of one target.

    A correlation is 0 where it is not defined, because targets or predictions are all the same, and so is R^2 of a
    single video.

    Args:
        targets: (videos,).
        predictions: (videos,).
    """
    from scipy.stats import pearsonr, spearmanr  # these imports take a second
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    measures: dict[str, Any] = {"pearson": pearsonr, "spearman": spearmanr}
    several = len(targets) > 1
    varied = several and np.ptp(targets) > 0 and np.ptp(predictions) > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns of numbers that hardly vary
        correlations = {
            name: float(measure(targets, predictions).statistic) if varied else 0.0
            for name, measure in measures.items()
        }
    return {
        "mae": float(mean_absolute_error(targets, predictions)),
        "mse": float(mean_squared_error(targets, predictions)),
        "r2": float(r2_score(targets, predictions)) if several else 0.0,
        **{name: value if np.isfinite(value) else 0.0 for name, value in correlations.items()},
    }


def worst_misses(targets: np.ndarray, predictions: np.ndarray, scale: np.ndarray, limit: int = 24) -> np.ndarray:
    """Return the indices of at most `limit` videos with the largest misses, in units of `scale`, the largest first.

    Args:
        targets: (videos, targets).
        predictions: (videos, targets).
        scale: (targets,).
    """
    misses = np.abs((predictions - targets) / scale).max(1)
    return np.argsort(-misses, kind="stable")[:limit]
