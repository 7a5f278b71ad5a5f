"""--track: the same scalars as TensorBoard's, by the calls of trackio, wandb and MLflow."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from engines.early_check import check_command_line
from engines.logs import RunLog
from engines.trackers import RECORD, require_tracker


@pytest.fixture
def calls(monkeypatch):
    """What stands in for the three packages, and what was called."""
    calls = []

    def noting(name, answer=None):
        return lambda *arguments, **keywords: calls.append((name, arguments, keywords)) or answer

    for package in ("trackio", "wandb"):
        module = ModuleType(package)
        vars(module).update({name: noting(f"{package}.{name}") for name in ("init", "log", "finish")})
        monkeypatch.setitem(sys.modules, package, module)
    run = SimpleNamespace(info=SimpleNamespace(run_id="made-by-mlflow"))
    mlflow = ModuleType("mlflow")
    vars(mlflow).update(
        {name: noting(f"mlflow.{name}") for name in ("set_experiment", "log_dict", "log_metrics", "end_run")}
    )
    mlflow.start_run = noting("mlflow.start_run", run)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return calls


def logged(tmp_path, tracker, **more):
    log = RunLog(str(tmp_path / "my_run"), tracker=tracker, flags={"lr": 0.1, "output_dir": tmp_path}, **more)
    log.scalars("train", {"loss": 0.5, "grad_norm": float("nan")}, 20)
    log.scalars("epoch", {"val_acc1": 50.0}, 25, epoch=1)
    log.close()


@pytest.mark.parametrize("package", ["trackio", "wandb"])
def test_a_record_of_a_run_and_its_continuation(calls, tmp_path, package):
    logged(tmp_path, package)
    names, _, keywords = zip(*calls, strict=True)
    assert names == tuple(f"{package}.{name}" for name in ("init", "log", "log", "finish"))
    assert keywords[0]["resume"] == "allow" and keywords[0]["config"] == {"lr": 0.1, "output_dir": str(tmp_path)}
    assert [call[1:] for call in calls[1:3]] == [
        (({"train/loss": 0.5},), {"step": 20}),
        (({"epoch/val_acc1": 50.0},), {"step": 25}),
    ]
    assert keywords[0]["name"].startswith("my_run-")
    logged(tmp_path, package)
    assert calls[4][2]["name"] == keywords[0]["name"]
    assert (calls[4][2].get("id") == keywords[0]["name"]) is (package == "wandb")


def test_mlflow(calls, tmp_path):
    logged(tmp_path, "mlflow")
    logged(tmp_path, "mlflow")
    starts = [keywords for name, _, keywords in calls if name == "mlflow.start_run"]
    assert starts[0]["run_id"] is None and starts[0]["run_name"].startswith("my_run-")
    assert starts[1] == {"run_id": "made-by-mlflow", "run_name": None}
    metrics = [(arguments[0], keywords) for name, arguments, keywords in calls if name == "mlflow.log_metrics"]
    assert metrics[:2] == [({"train/loss": 0.5}, {"step": 20}), ({"epoch/val_acc1": 50.0}, {"step": 25})]
    assert json.loads((tmp_path / "my_run" / RECORD).read_text()) == {"mlflow": "made-by-mlflow"}


def test_a_tracker_that_fails_does_not_end_the_run(calls, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise ConnectionError("no server")

    monkeypatch.setattr(sys.modules["wandb"], "log", fail)
    logged(tmp_path, "wandb")
    assert [record.message for record in caplog.records] == ["wandb failed (no server): the run continues without it"]
    assert [name for name, _, _ in calls] == ["wandb.init"]
    caplog.clear()
    monkeypatch.setattr(sys.modules["trackio"], "init", fail)
    logged(tmp_path, "trackio")
    assert "trackio failed" in caplog.text


def test_other_ranks_and_runs_without_one_import_nothing(calls, tmp_path):
    logged(tmp_path, "wandb", enabled=False)
    logged(tmp_path, "")
    assert calls == []


def test_a_tracker_that_is_not_installed_is_named_at_once(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        check_command_line("run_class_finetuning.py", ["--track", "wandb"])
    assert "--track wandb needs wandb: pip install wandb" in capsys.readouterr().err
    with pytest.raises(ValueError, match="choose from trackio, wandb, mlflow"):
        require_tracker("tensorboardx")
