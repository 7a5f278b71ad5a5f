"""The warning that a classifier learns nothing: when it comes, what it says, and when it stays away."""

import logging

import numpy as np
import pytest
import torch
from engine_standins import TinyModel, train

from engines.objectives.classification import Classification
from engines.objectives.collapse import CollapseCheck

LABELS = np.array([0, 0, 0, 1, 1, 2])


def warnings_after(caplog, *epochs, names=None):
    """The warnings after validations with these predictions."""
    caplog.set_level(logging.WARNING)
    check = CollapseCheck(names)
    for predictions in epochs:
        check.update(LABELS, np.array(predictions))
    return [record.message for record in caplog.records]


def test_one_class_alone_is_reported_once_with_its_name_and_what_helps(caplog):
    (line,) = warnings_after(caplog, *[[1] * 6] * 5, names=["cars", "people", "bikes"])
    assert "all 6 validation videos were assigned to people" in line and "--finetune" in line and "\n" not in line


def test_the_share_of_the_majority_is_reported_after_three_epochs_in_a_row(caplog):
    at_majority = [0, 1, 1, 1, 1, 0]  # three of six, as class 0 has
    assert not warnings_after(caplog, at_majority, at_majority, LABELS, at_majority, at_majority)
    (line,) = warnings_after(caplog, *[at_majority] * 4)
    assert "for 3 epochs top-1 has been 50.00 %" in line


def test_a_classifier_that_learns_is_left_in_peace(caplog):
    assert not warnings_after(caplog, [0, 0, 1, 1, 1, 1], LABELS, LABELS)


def test_a_validation_of_one_class_proves_nothing(caplog):
    caplog.set_level(logging.WARNING)
    check = CollapseCheck()
    for _ in range(4):
        check.update(np.zeros(6, dtype=int), np.zeros(6, dtype=int))
    assert not caplog.records


class ByBrightness(Classification):
    """Determined by the mean of a clip, which is what sets the classes of `MemoryVideos` apart."""

    def predict(self, clips):
        return -(clips.mean((1, 2, 3, 4))[:, None] - torch.tensor([0.0, 0.5, 1.0])).square()


@pytest.mark.parametrize(("kind", "lines"), [(Classification, 1), (ByBrightness, 0)])
def test_a_run_says_it_of_its_validations_and_not_of_the_average(tmp_path, caplog, kind, lines):
    caplog.set_level(logging.WARNING)
    model = TinyModel(dropout=0)
    model.head.bias.data = torch.tensor([0.0, 1e4, 0.0])
    train(tmp_path, "--model_ema", objective=kind(model, 3))
    assert sum("validation videos were assigned to class 1" in record.message for record in caplog.records) == lines
