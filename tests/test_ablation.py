"""The ablation: the set of runs, not repeating finished ones, and the calculations in its table."""

import math
import statistics

import pytest
from run_standins import replace_runs

import run_class_finetuning
from benchmarks import ablation
from benchmarks.ablation_table import Score, factor_effect, write_document
from engines.configuration import parse_arguments


def test_every_combination_runs_with_every_seed_seeds_outermost():
    runs = ablation.plan([0, 1, 2], {})
    assert len(runs) == len({run.name for run in runs}) == 2**4 * 3
    assert [run.seed for run in runs[:17]] == [0] * 16 + [1]
    assert {run.levels for run in ablation.plan([5], {"type": "v2", "mask": "off"})} == {
        (residual, "off", "v2", steps) for residual in ("on", "off") for steps in ("mamba", "published")
    }


def test_flags_reach_the_run():
    run = ablation.Run(("off", "on", "v2", "published"), 7)
    words = ["--recipe", ablation.DIGITS_RECIPE, *run.flags]
    args = parse_arguments(run_class_finetuning.get_parser(), words, script=ablation.SCRIPT)
    chosen = (args.elemental_residual, args.masked_backward, args.bimamba_type, args.dt_init, args.seed)
    assert chosen == (False, True, "v2", "published", 7)


@pytest.fixture
def stand_in(monkeypatch):
    """Replace training: runs write a result that depends on their flags, and are counted."""

    def results_of(command, folder):
        if "--seed" in command and command[command.index("--seed") + 1] == "9":
            return None
        (folder / "log.txt").write_text('{"seconds": 2.0}\n{"seconds": 4.0}\n')
        return {"top1": 50 + 10 * ("--elemental_residual" in command), "videos": 100, "classes": 8}

    monkeypatch.setattr(ablation, "make_data_set", lambda *_: True)
    return replace_runs(monkeypatch, results_of)


def test_finished_runs_are_not_repeated_and_changed_ones_are(stand_in, tmp_path, capsys):
    words = ["--output", str(tmp_path), "--document", str(tmp_path / "a.md"), "--seeds", "0", "--jobs", "2",
             "--fix", "type=v1", "dt_init=mamba"]  # fmt: skip
    assert ablation.main(words) == 0
    assert len(stand_in) == 4
    assert ablation.main(words) == 0
    assert len(stand_in) == 4, "nothing is left to run"
    assert ablation.main([*words, "--epochs", "1"]) == 0
    assert len(stand_in) == 8 and all("--no_auto_resume" in command for command in stand_in[4:])
    text = (tmp_path / "a.md").read_text()
    assert "| residual: on against off | +10.0 | 2 |" in text and "| mask: on against off | +0.0 | 2 |" in text
    assert "| 60.0 | 1 | 3.0 |" in text and "--epochs 1" in text
    assert "type:" not in text, "a factor of one level has no effect to tell"


def test_an_interrupted_run_goes_on_and_a_failed_one_is_reported(stand_in, tmp_path, capsys):
    words = ["--output", str(tmp_path), "--document", str(tmp_path / "a.md"), "--seeds", "9", "--jobs", "1",
             "--fix", "type=v1", "dt_init=mamba", "mask=on", "residual=on"]  # fmt: skip
    assert ablation.main(words) == 1
    assert "failed: residual_on-mask_on-type_v1-dt_init_mamba/seed_9" in capsys.readouterr().err
    assert ablation.main(words) == 1
    assert "--no_auto_resume" in stand_in[0] and "--no_auto_resume" not in stand_in[1]


def test_a_real_data_set_goes_through_the_launcher(stand_in, tmp_path):
    words = ["--output", str(tmp_path), "--document", str(tmp_path / "a.md"), "--seeds", "0", "--data_root", "/v",
             "--data_set", "k400", "--model", "small", "--frames", "8", "--gpus", "4", "--epochs", "3"]  # fmt: skip
    assert ablation.main(words) == 0
    assert len(stand_in) == 16
    expected = "bash scripts/launch.sh run_class_finetuning.py k400 --data_root /v --model small --frames 8 --gpus 4"
    assert " ".join(stand_in[0]).startswith(f"{expected} --epochs 3 ")


def test_an_unknown_level_is_refused(capsys):
    with pytest.raises(SystemExit):
        ablation.main(["--fix", "mask=maybe"])
    assert "mask=on|off" in capsys.readouterr().err


def test_effects_are_paired_within_seeds():
    scores = [
        Score(("on", "x"), 0, 60, 10, 4, 1), Score(("off", "x"), 0, 50, 10, 4, 1),
        Score(("on", "y"), 0, 80, 10, 4, 1), Score(("off", "y"), 0, 78, 10, 4, 1),
        Score(("on", "x"), 1, 70, 10, 4, 1), Score(("off", "x"), 1, 72, 10, 4, 1),
        Score(("on", "y"), 1, 99, 10, 4, 1),
    ]  # fmt: skip
    effect = factor_effect(scores, 0)
    assert (effect.mean, effect.pairs) == (2.0, 3), (
        "seed 0: (10 + 2) / 2, seed 1: -2; the run without a pair is left out"
    )
    assert effect.error == pytest.approx(statistics.stdev([6, -2]) / math.sqrt(2))
    assert factor_effect(scores[:1], 0) is None


def test_the_document_tells_mean_and_spread(tmp_path):
    scores = [Score(("on",), seed, top1, 400, 8, 1) for seed, top1 in enumerate((60, 62, 64))]
    text = write_document(tmp_path / "docs" / "a.md", scores, ["mask"], "command", "run")
    assert "| on | 62.0 +- 2.0 | 3 | 1.0 |" in text
    assert "chance 12.5 %" in text and "up to 2.5)" in text
    assert (tmp_path / "docs" / "a.md").read_text() == text
