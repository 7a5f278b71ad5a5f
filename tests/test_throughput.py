"""benchmarks.throughput: the engine trains on what is read, and the limit shares the reading among the cores."""

import pytest

from benchmarks import throughput
from benchmarks.throughput import CASES, measure


@pytest.mark.parametrize("cores", [1, 4])
def test_the_limit_is_the_step_and_a_share_of_the_reading(monkeypatch, tmp_path, cores):
    monkeypatch.setattr(throughput, "usable_cores", lambda: cores)
    trained = []

    def counted(model, loader, settings):
        return lambda: trained.extend(index for batch in loader for index in batch["indices"].tolist())

    monkeypatch.setattr(throughput, "engine_step", counted)
    monkeypatch.setattr(
        throughput, "interleaved_medians", lambda calls, rounds: dict(reading=4.0, step=8.0, engine=10)
    )
    found = measure(CASES["demo"]._replace(steps=2, batch=2), tmp_path, workers=0, rounds=1)
    assert sorted(trained) == [0, 1, 2, 3], "one round is one pass over the videos"
    assert found["allowed"] == pytest.approx(1000 * (8 + 4 / cores) / 4)
    assert found["share"] == pytest.approx((8 + 4 / cores) / 10)
