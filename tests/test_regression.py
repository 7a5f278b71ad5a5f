"""Regression: standardised for the loss alone, figures by their formulas, the constant beside them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from engine_standins import TinyModel

from engines.evaluate import Evaluation
from engines.loss_settings import PLAIN_LOSS, LossSettings
from engines.objectives.regression import Regression

CPU = torch.device("cpu")
TRAINING = [(10.0, -1e6), (20.0, 1e6), (60.0, 3e6)]


def objective(loss="mse", targets=TRAINING, names=None):
    torch.manual_seed(0)
    settings = LossSettings(**(vars(PLAIN_LOSS) | {"regression_loss": loss}))
    model = TinyModel(classes=len(targets[0]), dropout=0)
    return Regression(model, len(targets[0]), settings, targets=targets, target_names=names)


def records(targets):
    return [SimpleNamespace(path=f"{i}.mp4", target=target, line=i + 1) for i, target in enumerate(targets)]


@pytest.mark.parametrize(
    "loss, by_hand",
    [
        ("mse", lambda misses: (misses**2).mean()),
        ("l1", lambda misses: misses.abs().mean()),
        ("huber", lambda misses: torch.where(misses.abs() < 1, misses**2 / 2, misses.abs() - 0.5).mean()),
    ],
)
def test_the_loss_is_that_of_standardised_targets(loss, by_hand):
    task, clips = objective(loss), torch.randn(2, 3, 2, 8, 8)
    found = task(task.train().prepare({"clips": clips, "targets": [(10.0, 3e6), (95.0, 1e6)]}, CPU))["loss"]
    mean, deviation = np.mean(TRAINING, 0), np.std(TRAINING, 0)
    wanted = torch.tensor((np.array([(10.0, 3e6), (95.0, 1e6)]) - mean) / deviation, dtype=torch.float32)
    torch.testing.assert_close(found, by_hand(task.model(clips) - wanted))


def test_predictions_are_in_the_units_of_the_list_and_views_are_averaged():
    task, clips = objective().eval(), torch.randn(2, 3, 3, 2, 8, 8)
    with torch.no_grad():
        found = task.outputs({"clips": clips}, CPU, clips_per_forward=4)
        standardised = task.model(clips.flatten(0, 1)).unflatten(0, (2, 3)).mean(1).double().numpy()
    assert found == pytest.approx(standardised * np.std(TRAINING, 0) + np.mean(TRAINING, 0))


def test_a_target_that_never_changes_is_refused():
    with pytest.raises(ValueError, match="target 1 of the training list is 4 in all 2 clips"):
        objective(targets=[(1.0, 4.0), (2.0, 4.0)])


def test_the_figures_by_their_formulas():
    rng = np.random.default_rng(0)
    targets = rng.normal(30, 20, 40)
    found = targets + rng.normal(0, 5, 40)
    figures = objective(targets=[(10.0,), (20.0,), (60.0,)]).figures(
        found[:, None], records(targets[:, None].tolist())
    )
    misses, ranks = found - targets, [np.argsort(np.argsort(values)) for values in (targets, found)]
    variance = np.var([10, 20, 60])
    assert figures == pytest.approx(
        {
            "error": (misses**2).mean() / variance,
            "mae": np.abs(misses).mean(),
            "mse": (misses**2).mean(),
            "r2": 1 - (misses**2).sum() / ((targets - targets.mean()) ** 2).sum(),
            "pearson": np.corrcoef(targets, found)[0, 1],
            "spearman": np.corrcoef(*ranks)[0, 1],
        }
    )


def test_several_targets_have_figures_of_their_own():
    targets = [(1.0, 5e6), (3.0, -5e6)]
    figures = objective(names=["angle", "force"]).figures(np.array([(1.0, 5e6), (5.0, -5e6)]), records(targets))
    assert figures["mae_angle"] == 1 and figures["mae_force"] == 0
    assert figures["error"] == pytest.approx(4 / np.var([10, 20, 60]) / 4)


def test_constant_predictions_have_no_correlation_and_no_warning(recwarn):
    figures = objective(targets=[(1.0,), (2.0,)]).figures(np.full((3, 1), 1.5), records([(1.0,), (2.0,), (3.0,)]))
    assert figures["pearson"] == figures["spearman"] == 0
    alone = objective(targets=[(1.0,), (2.0,)]).figures(np.array([[1.5]]), records([(1.0,)]))
    assert alone["r2"] == 0 and np.isfinite(list(alone.values())).all() and not list(recwarn)


def test_the_constant_stands_beside_the_results_and_the_worst_miss_comes_first():
    task, targets = objective(names=["angle", "force"]), [(40.0, 1e6), (20.0, 2e6)]
    outputs = np.array([(41.0, 1e6), (20.0, 2.9e6)])
    evaluation = Evaluation({"error": 1.0}, outputs, records(targets), np.arange(2), 1, [])
    results = task.results(evaluation)
    angle, force = results["targets"]
    assert (angle["name"], angle["mae"], angle["training_mean"]) == ("angle", 0.5, 30.0)
    assert (angle["constant_mae"], angle["constant_mse"]) == (10.0, 100.0)
    assert force["constant_mae"] == pytest.approx(np.abs(np.array([1e6, 2e6]) - 1e6).mean())
    assert results["worst_misses"][0]["path"] == "1.mp4", "0.9e6 is more deviations than 1"
    json.dumps(results, allow_nan=False)


def test_the_loss_ignores_how_large_the_units_are():
    clips = torch.randn(2, 3, 2, 8, 8)
    small, large = objective(targets=[(1.0,), (3.0,)]), objective(targets=[(1e9,), (3e9,)])
    losses = [
        task(task.train().prepare({"clips": clips, "targets": [(2.5 * unit,), (unit,)]}, CPU))["loss"]
        for task, unit in ((small, 1.0), (large, 1e9))
    ]
    torch.testing.assert_close(*losses)
    assert F.mse_loss is small.loss
