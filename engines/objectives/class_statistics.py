"""Statistics of an evaluation report, computed from labels, predictions and probabilities.

Shapes: `counts` is a confusion matrix (classes, classes), true class by row; `labels` and `predictions` are (videos,)
int, `scores` (videos, classes) probabilities. Accuracies, precisions and shares are fractions from 0 to 1, or None if
the denominator is 0 (a class without videos, or never predicted).
"""

from typing import Any

import numpy as np

CALIBRATION_BINS = 15


def per_class(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> list[dict]:
    """Return for each class: label, videos, predicted (how often), recall (the class's accuracy), precision, f1."""
    from sklearn.metrics import precision_recall_fscore_support  # the import takes a second

    options: dict[str, Any] = dict(labels=range(num_classes), zero_division=np.nan)
    figures: Any = precision_recall_fscore_support(labels, predictions, **options)
    precision, recall, f1, videos = figures
    predicted = np.bincount(predictions, minlength=num_classes)
    shares = {"recall": recall, "precision": precision, "f1": f1}
    return [
        {"label": label, "videos": int(videos[label]), "predicted": int(predicted[label])}
        | {name: None if np.isnan(values[label]) else float(values[label]) for name, values in shares.items()}
        for label in range(num_classes)
    ]


def most_confused(counts: np.ndarray, limit: int = 20) -> list[dict]:
    """Return the most frequent mistakes: label, prediction, count, and share of the class's videos.

    They are sorted by count, then by share.
    """
    mistakes = counts - np.diag(counts.diagonal())
    shares = mistakes / np.maximum(counts.sum(1, keepdims=True), 1)
    rows, columns = np.nonzero(mistakes)
    order = np.lexsort((columns, rows, -shares[rows, columns], -mistakes[rows, columns]))[:limit]
    return [
        {"label": int(row), "prediction": int(column), "count": int(mistakes[row, column]), "share": float(share)}
        for row, column, share in zip(rows[order], columns[order], shares[rows[order], columns[order]], strict=True)
    ]


def calibration(labels: np.ndarray, predictions: np.ndarray, scores: np.ndarray) -> dict:
    """Compute the expected calibration error and its reliability diagram (Guo et al., arXiv 1706.04599).

    The confidence of a video is the probability of its prediction. Bins have equal width and include their upper edge.

    Returns:
        a dict with `ece`, the mean over videos of |accuracy - confidence| of their bin; `mean_confidence` of all
        videos; and `bins`, each with from, to, videos, accuracy and confidence (None if it has no videos).
    """
    confidence = scores[np.arange(len(predictions)), predictions].astype(np.float64)
    correct = predictions == labels
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, CALIBRATION_BINS - 1)
    videos = np.bincount(places, minlength=CALIBRATION_BINS)
    sums = {
        "accuracy": np.bincount(places, weights=correct, minlength=CALIBRATION_BINS),
        "confidence": np.bincount(places, weights=confidence, minlength=CALIBRATION_BINS),
    }
    bins = [
        {"from": float(edges[i]), "to": float(edges[i + 1]), "videos": int(videos[i])}
        | {name: _share(total[i], videos[i]) for name, total in sums.items()}
        for i in range(CALIBRATION_BINS)
    ]
    error = np.abs(sums["accuracy"] - sums["confidence"]).sum() / max(1, len(labels))
    return {"ece": float(error), "mean_confidence": float(confidence.mean()), "bins": bins}


def worst_mistakes(labels: np.ndarray, predictions: np.ndarray, scores: np.ndarray, limit: int = 24) -> np.ndarray:
    """Return the indices of at most `limit` misclassified videos, the most confident mistakes first."""
    wrong = np.flatnonzero(predictions != labels)
    confidence, truth = scores[wrong, predictions[wrong]], scores[wrong, labels[wrong]]
    return wrong[np.lexsort((wrong, truth, -confidence))[:limit]]


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
