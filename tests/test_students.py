"""The benchmark of probes and students: its lists, commands that the run script takes, and its table."""

import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from run_standins import replace_runs

import run_class_finetuning
from benchmarks import students
from datasets.annotations import read_list

CLIPS = 40


@pytest.fixture
def demo(tmp_path):
    """The list of a demo with 8 classes."""
    (tmp_path / "demo" / "data" / "videos").mkdir(parents=True)
    rows = [f"videos/{i}.mp4 {i % 8}\n" for i in range(CLIPS)]
    (tmp_path / "demo" / "data" / "videos" / "train.csv").write_text("".join(rows))
    return tmp_path / "demo"


def results_of(command, folder):
    """A teacher's scores help by 10, and the control loses what a run without them has."""
    scores = command[command.index("--teacher_scores") + 1] if "--teacher_scores" in command else ""
    return {"top1": 50 + 10 * ("features" in scores) - 5 * ("other" in scores) + int(str(folder)[-1])}


def write_logits(commands):
    """Stand in for tools.features, whose output is the last folder named."""
    run = subprocess.run

    def extract_or_run(command, **options):
        if "tools.features" not in command:
            return run(command, **options)
        lines = [record.line for record in read_list(command[4])[0]]
        folder = Path(command[command.index("--output") + 1])
        folder.mkdir()
        np.savez(folder / "features.npz", lines=lines, logits=np.eye(len(lines)))
        return None

    return extract_or_run


def test_lists_commands_and_table(demo, tmp_path, monkeypatch, capsys):
    commands = replace_runs(monkeypatch, results_of)
    monkeypatch.setattr(subprocess, "run", write_logits(commands))
    words = ["--demo", str(demo), "--output", str(tmp_path / "out"), "--document", str(tmp_path / "t.md")]
    assert students.main([*words, "--videos", "24", "--seeds", "0", "1"]) == 0
    lists = tmp_path / "out" / "lists_24_seed0"
    chosen, shuffled = (read_list(lists / f"{name}.csv")[0] for name in ("train", "shuffled"))
    assert len({record.path for record in chosen}) == 24
    assert [record.path for record in chosen] == [record.path for record in shuffled]
    assert Counter(r.target for r in chosen) == Counter(r.target for r in shuffled)
    assert [r.target for r in chosen] != [r.target for r in shuffled]
    with np.load(lists / "other.npz") as file:
        assert file["logits"].sum(0).tolist() == [1] * 24 and file["logits"].trace() < 24
    assert len(commands) == 2 * len(students.VARIANTS)
    for command in commands:
        run_class_finetuning.get_parser().parse_args(command[2:])
    table = (tmp_path / "t.md").read_text()
    assert "| student, labels alone | 50.5 +- 0.7 | 50.0, 51.0 |" in table
    assert "| student, labels and the teacher's scores | 60.5 +- 0.7 |" in table
    assert "clip's scores | 45.5 +- 0.7 |" in table
