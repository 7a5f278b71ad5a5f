"""Figures of a report, worked out by hand or by loops that follow their definitions."""

import json

import numpy as np
import pytest

from engines.objectives.class_statistics import (
    CALIBRATION_BINS,
    calibration,
    most_confused,
    per_class,
    worst_mistakes,
)

CLASSES = 6


@pytest.fixture
def tested():
    """Labels, predictions and scores of 300 videos; class 4 has none, and class 5 is never predicted."""
    rng = np.random.default_rng(3)
    labels = rng.choice([0, 1, 2, 3, 5], 300)
    logits = rng.normal(size=(300, CLASSES)) + 1.5 * np.eye(CLASSES)[labels]
    logits[:, 5] = -9
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return labels, scores.argmax(1), scores.astype(np.float32)


def counts_of(labels, predictions):
    counts = np.zeros((CLASSES, CLASSES), int)
    np.add.at(counts, (labels, predictions), 1)
    return counts


def test_per_class_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 3])
    predictions = np.array([0, 0, 0, 1, 1, 0, 1])
    rows = per_class(labels, predictions, 5)
    names = ("label", "videos", "predicted", "recall", "precision", "f1")
    assert [tuple(row[name] for name in names) for row in rows] == [
        (0, 4, 4, 3 / 4, 3 / 4, 3 / 4),
        (1, 2, 3, 1 / 2, 1 / 3, pytest.approx(2 / 5)),
        (2, 0, 0, None, None, None),
        (3, 1, 0, 0, None, 0),
        (4, 0, 0, None, None, None),
    ]
    assert json.loads(json.dumps(rows)) == rows  # plain numbers, as results.json needs


def test_most_confused_are_the_largest_cells_off_the_diagonal(tested):
    labels, predictions, _ = tested
    counts = counts_of(labels, predictions)
    pairs = most_confused(counts, limit=4)
    assert [pair["count"] for pair in pairs] == sorted(counts[~np.eye(CLASSES, dtype=bool)])[::-1][:4]
    for pair in pairs:
        assert pair["label"] != pair["prediction"]
        both = (labels == pair["label"]) & (predictions == pair["prediction"])
        assert pair["count"] == both.sum() and pair["share"] == pytest.approx(
            both.sum() / (labels == pair["label"]).sum()
        )
    assert most_confused(np.diag([3, 4])) == []


def test_calibration_error_follows_its_definition(tested):
    labels, predictions, scores = tested
    found = calibration(labels, predictions, scores)
    confidence = scores.max(1).astype(float)
    expected, videos = 0.0, 0
    for number, entry in enumerate(found["bins"]):
        inside = (confidence > number / CALIBRATION_BINS) & (confidence <= (number + 1) / CALIBRATION_BINS)
        assert entry["videos"] == inside.sum()
        videos += inside.sum()
        if inside.any():
            accuracy = (predictions == labels)[inside].mean()
            assert entry["accuracy"] == pytest.approx(accuracy)
            expected += inside.mean() * abs(accuracy - confidence[inside].mean())
    assert videos == 300 and found["ece"] == pytest.approx(expected) and found["ece"] > 0.01


def test_calibration_of_the_extremes():
    sure = calibration(np.array([0, 1, 1, 1]), np.array([0, 0, 0, 0]), np.array([[1.0, 0.0]] * 4))
    assert sure["ece"] == pytest.approx(0.75) and sure["bins"][-1]["videos"] == 4
    assert all(entry["accuracy"] is None for entry in sure["bins"][:-1])


def test_worst_mistakes_are_the_surest_wrong_ones(tested):
    labels, predictions, scores = tested
    worst = worst_mistakes(labels, predictions, scores, limit=5)
    wrong = np.flatnonzero(labels != predictions)
    assert worst.tolist() == sorted(wrong, key=lambda place: -scores[place].max())[:5]
