"""Statistics of clips with several labels, from scikit-learn.

Shapes: `labels` (videos, classes) bool, `scores` (videos, classes) from 0 to 1. Precisions and F1 are fractions.
"""

from typing import Any

import numpy as np


def average_precisions(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the average precision of each class, (classes,); NaN for one without positives."""
    from sklearn.metrics import average_precision_score  # the import takes a second

    found = np.full(labels.shape[1], np.nan)
    for label in np.flatnonzero(labels.any(0)):
        found[label] = average_precision_score(labels[:, label], scores[:, label])
    return found


def best_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the score that, as the least one of a predicted class, has the highest F1 over all decisions."""
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(labels.ravel(), scores.ravel())
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[f1[:-1].argmax()])  # the last point of the curve has no threshold


def f1_figures(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return F1 over all decisions and as a mean of the classes with positives; `predicted` (videos, classes) bool."""
    from sklearn.metrics import f1_score

    seen = labels.any(0)
    options: dict[str, Any] = {"zero_division": 0.0}
    return {
        "micro_f1": float(f1_score(labels.ravel(), predicted.ravel(), **options)),
        "macro_f1": float(f1_score(labels[:, seen], predicted[:, seen], average="macro", **options)),
    }


def mean_loss(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the binary cross entropy, a mean over videos and classes; scores of exactly 0 or 1 are moved inwards."""
    inside = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.log(np.where(labels, inside, 1 - inside)).mean())


def per_class(labels: np.ndarray, scores: np.ndarray, threshold: float) -> list[dict[str, Any]]:
    """Return for each class: label, positives, share of the videos, ap, precision, recall, f1, predicted.

    Fractions whose denominator is 0 are None.
    """
    from sklearn.metrics import precision_recall_fscore_support

    predicted = scores >= threshold
    options: dict[str, Any] = {"zero_division": np.nan}
    # A column of zeros keeps a single class from being read as one label per video.
    columns = [np.pad(marks, ((0, 0), (0, 1))) for marks in (labels, predicted)]
    figures: Any = precision_recall_fscore_support(*columns, **options)
    shares = dict(zip(("precision", "recall", "f1"), figures, strict=False)) | {
        "ap": average_precisions(labels, scores)
    }
    return [
        {"label": label, "positives": int(labels[:, label].sum()), "share": float(labels[:, label].mean())}
        | {name: None if np.isnan(values[label]) else float(values[label]) for name, values in shares.items()}
        | {"predicted": int(predicted[:, label].sum())}
        for label in range(labels.shape[1])
    ]


def worst_mistakes(labels: np.ndarray, scores: np.ndarray, threshold: float, limit: int = 24) -> np.ndarray:
    """Return at most `limit` wrong decisions (n, 2), video and class, those furthest from the threshold first."""
    wrong = np.argwhere((scores >= threshold) != labels)
    # On each side of the threshold, distances are measured in shares of that side.
    values = scores[wrong[:, 0], wrong[:, 1]]
    distance = np.where(values >= threshold, (values - threshold) / max(1 - threshold, 1e-9), 1 - values / threshold)
    return wrong[np.argsort(-distance, kind="stable")[:limit]]
