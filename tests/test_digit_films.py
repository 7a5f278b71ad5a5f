"""Films of three motions, far apart, and the runs that compare windows over them."""

import json
from pathlib import Path

import numpy as np
import pytest
from run_standins import replace_runs

from benchmarks import long_films
from datasets.preparation.digit_films import MOTIONS, ORDERS, draw_film


def visible(frames):
    """The stretches in which frames differ from the background, which all frames without a digit show."""
    background = np.median(frames, axis=0)
    seen = np.abs(frames - background).reshape(len(frames), -1).max(1) > 40
    edges = np.flatnonzero(np.diff(np.concatenate([[0], seen, [0]]).astype(int)))
    return edges.reshape(-1, 2).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_motions_are_further_apart_than_a_short_window(seed):
    frames, label = draw_film("train", 240, 64, np.random.default_rng(seed))
    stretches = visible(frames)
    assert len(stretches) == 3 and all(end - start == 40 for start, end in stretches)
    gaps = [later[0] - earlier[1] for earlier, later in zip(stretches, stretches[1:], strict=False)]
    assert min(gaps) > long_films.WINDOWS["a tenth"] * 240 and 0 <= label < 6


def test_classes_are_the_orders_of_the_motions():
    assert len(set(ORDERS)) == 6 and all(set(order) == set(MOTIONS) for order in ORDERS)
    by_order = {}
    for seed in range(12):
        frames, label = draw_film("train", 240, 64, np.random.default_rng(seed))
        background = np.median(frames, axis=0)
        moved = []
        for first, end in visible(frames):
            before, after = (
                np.argwhere(np.abs(frames[n] - background).sum(-1) > 120).mean(0) for n in (first, end - 1)
            )
            moved.append(after - before)
        by_order[seed] = (ORDERS[label], moved)
    for order, moved in by_order.values():
        for motion, (down, right) in zip(order, moved, strict=True):
            if motion == MOTIONS[0]:
                assert right < -20 and abs(down) < 5
            if motion == MOTIONS[1]:
                assert down < -20 and abs(right) < 5


def test_the_benchmark_runs_each_window_with_equal_steps(tmp_path, monkeypatch, capsys):
    def results_of(command, folder: Path):
        share = command[command.index("--window_seconds") + 1]
        return {"top1": 10 + float(share), "classes": 6, "videos": 2, "list": {"windows": 8} if share != "0" else {}}

    commands = replace_runs(monkeypatch, results_of)
    words = ["--output", str(tmp_path), "--train", "2", "--test", "2", "--steps", "7", "--epochs", "3"]
    assert long_films.main(words) == 0
    assert [command[command.index("--window_seconds") + 1] for command in commands] == ["2", "10", "0"]
    assert all(command[command.index("--steps") + 1] == "7" and "--epochs" in command for command in commands)
    assert all(command[command.index("--finetune") + 1].endswith("demo/checkpoint-best.pth") for command in commands)
    assert "| half | 8 | 20.0 % | 16.7 % |" in capsys.readouterr().out
    assert "| the whole film | 2 | 10.0 % | 16.7 % |" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "data" / "settings.json").read_text())["num_frames"] == 240
