"""Comparing two tests: McNemar's test against scipy, Holm's correction by hand, and what is refused."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest, chi2

from reports.comparison import CompareError, Comparison, compare, holm, mcnemar
from tools.compare import main

SAME_LIST = {"file": "test.csv", "records": 60, "sha256": "a"}


def results(predictions, labels, lines=None, **changes):
    lines = range(1, 1 + len(labels)) if lines is None else lines
    rows = [
        {"line": line, "label": int(label), "prediction": int(prediction), "confidence": 0.5}
        for line, label, prediction in zip(lines, labels, predictions, strict=True)
    ]
    plain = {"classes": 3, "list": SAME_LIST, "model": "tiny", "weights": "some", "file": "x", "predictions": rows}
    return plain | changes


@pytest.fixture
def two_runs():
    """Predictions of 60 videos of three classes: B is better in class 1."""
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1, 2], 20)
    first = np.where(rng.random(60) < 0.5, labels, (labels + 1) % 3)
    second = np.where((labels == 1) | (rng.random(60) < 0.5), labels, (labels + 2) % 3)
    return labels, first, second


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (3, 9), (9, 3), (40, 70), (480, 500), (200, 700)])
def test_exact_test_is_the_binomial_one(counts):
    expected = binomtest(counts[0], sum(counts)).pvalue if sum(counts) else 1.0
    assert mcnemar(*counts) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("counts", [(600, 700), (500, 500), (2100, 1900)])
def test_large_counts_agree_with_chi_square(counts):
    statistic = max(abs(counts[0] - counts[1]) - 1, 0) ** 2 / sum(counts)
    assert mcnemar(*counts) == pytest.approx(chi2.sf(statistic, 1), rel=0.02)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.5, 0.02]) == pytest.approx([0.08, 0.04, 0.5, 0.06])
    assert holm([0.6, 0.9]) == [1, 1]


def test_overall_and_by_class(two_runs):
    labels, first, second = two_runs
    outcome = compare(results(first, labels), results(second, labels))
    right = np.stack([first == labels, second == labels])
    assert outcome.overall.videos == 60 and outcome.left_out == 0
    assert outcome.overall.difference == pytest.approx(100 * (right[1].mean() - right[0].mean()))
    assert outcome.overall.only_b == (right[1] & ~right[0]).sum()
    paired = right[1].astype(float) - right[0]
    assert outcome.overall.half_width == pytest.approx(100 * 1.959964 * paired.std() / np.sqrt(60))
    assert outcome.classes[1].accuracy_b == 100 and outcome.classes[1].only_a == 0
    wrong = int((first[labels == 1] != 1).sum())
    assert outcome.classes[1].p_value == pytest.approx(binomtest(0, wrong).pvalue)
    assert sum(entry.videos for entry in outcome.classes.values()) == 60


def test_videos_that_one_run_could_not_read_are_left_out(two_runs):
    labels, first, second = two_runs
    shorter = results(second[5:], labels[5:], lines=range(6, 61))
    outcome = compare(results(first, labels), shorter)
    assert outcome.overall.videos == 55 and outcome.left_out == 5
    assert outcome.overall.accuracy_a == pytest.approx(100 * (first == labels)[5:].mean())


def test_other_lists_are_refused(two_runs):
    labels, first, second = two_runs
    other = results(second, labels, list={"file": "val.csv", "records": 60, "sha256": "b"})
    with pytest.raises(CompareError, match=r"different lists, test\.csv .* val\.csv"):
        compare(results(first, labels), other)


def test_tool_prints_and_writes(two_runs, tmp_path, capsys):
    labels, first, second = two_runs
    for name, predictions in (("a", first), ("b", second)):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(results(predictions, labels, label_names=["walk", "run", "swim"])))
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert main([*files, "--classes", "2", "--json", str(tmp_path / "out.json")]) == 0
    out = capsys.readouterr().out
    written = json.loads((tmp_path / "out.json").read_text())
    assert f"p = {written['overall']['p_value']:.4g}" in out and "run" in out and "and 1 more classes" in out
    assert len(written["classes"]) == 3
    assert main([*files, "--json", str(tmp_path)]) == 1
    assert f"--json {tmp_path} is a folder; name a file" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"top1": 3}', '{"predictions": []}'])
def test_what_is_no_results_file_is_named(content, tmp_path, capsys):
    (tmp_path / "a.json").write_text(content)
    assert main([str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 1
    assert "a.json" in capsys.readouterr().err
    assert main([str(tmp_path / "none.json"), str(tmp_path / "a.json")]) == 1
    assert "none.json" in capsys.readouterr().err


@pytest.mark.parametrize(("only_b", "videos"), [(0, 1), (0, 20), (20, 20)])
def test_interval_of_unanimous_videos_claims_no_certainty(only_b, videos):
    comparison = Comparison(videos, 0.0, 100 * only_b / videos, 0, only_b, mcnemar(0, only_b))
    assert comparison.half_width == pytest.approx(100 * (1 - 0.025 ** (1 / videos)))
