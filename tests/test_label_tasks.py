"""The benchmark of several labels and numbers: its lists, its controls, its table."""

import numpy as np
from run_standins import replace_runs

from benchmarks.label_tasks import RUNS, main
from datasets.annotations import read_list


def results_of(command, folder):
    """Stand in for a run: perfect scores of three clips of two classes, or predictions that miss by 1 each."""
    labels = np.array([[1, 0], [0, 1], [1, 0]], np.uint8)
    task = command[command.index("--task") + 1]
    if task == "regression":
        targets = np.array([[1.0], [2.0], [6.0]])
        np.savez(folder / "scores.npz", targets=targets, predictions=targets + 1)
        return {"task": task, "targets": [{"r2": 0.7857, "mse": 1.0, "constant_mse": 4.5}]}
    if task == "multilabel":
        np.savez(folder / "scores.npz", labels=labels, scores=labels * 0.5 + 0.2)
        return {"task": task, "mean_ap": 1.0}
    np.savez(folder / "scores.npz", label=labels.argmax(1), scores=labels * 0.5 + 0.2)
    return {"task": task, "top1": 100.0, "classes": 2}


def test_the_controls_exchange_training_labels_and_the_table_compares_with_scikit_learn(tmp_path, monkeypatch, capsys):
    commands = replace_runs(monkeypatch, results_of)
    words = ["--output", str(tmp_path), "--train", "12", "--test", "4", "--epochs", "3"]
    assert main([*words, "--device", "cpu"]) == 0
    assert len(commands) == len(RUNS) and all("--device" in command for command in commands)
    for name, task in (("motions", "multilabel"), ("speed", "regression")):
        folder = tmp_path / "data" / name
        for split in ("train", "val", "test"):
            own, _ = read_list(folder / f"{split}.csv", task=task)
            other, _ = read_list(folder / "exchanged" / f"{split}.csv", task=task)
            assert [record.path for record in own] == [record.path for record in other]
            targets, exchanged = ([record.target for record in records] for records in (own, other))
            assert sorted(targets) == sorted(exchanged) and (targets == exchanged) == (split != "train")
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert "| speed | R² | 0.7857 | 0.7857 | 0 (mean of the test list) |" in table
    assert "| speed | MSE | 1.0000 | 1.0000 | 4.5000 (training mean) |" in table
    assert "| motions | mAP | 1.0000 | 1.0000 | 0.5000 (share of clips) |" in table
    assert "| motion | top-1 | 1.0000 | 1.0000 | 0.6667 (largest class) |" in table
