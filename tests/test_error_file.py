"""What torchrun reads of a process that failed: the whole file, or none."""

import json
import os
import signal

import pytest
from torch.distributed.elastic.multiprocessing import errors

from engines.error_file import record
from tests.forked import run_function


def fail(decorate, ended_meanwhile):
    if ended_meanwhile:
        json.dump = write_some_and_end

    @decorate
    def main():
        raise ValueError("of the run")

    main()


def write_some_and_end(data, file):
    file.write("{")
    file.flush()
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def error_file(tmp_path, monkeypatch):
    (tmp_path / "records").mkdir()
    path = tmp_path / "records" / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    return path


def test_a_failure_is_recorded(error_file, tmp_path):
    status, told = run_function(fail, record, False, folder=tmp_path)
    assert status == 1 and "ValueError: of the run" in told
    assert json.loads(error_file.read_text())["message"]["message"] == "ValueError: of the run"
    assert os.listdir(error_file.parent) == ["error.json"]


def test_a_process_that_is_ended_meanwhile_leaves_no_half_file(error_file, tmp_path):
    status, told = run_function(fail, record, True, folder=tmp_path)
    assert status == -signal.SIGTERM, told
    assert not error_file.exists()


def test_pytorchs_own_handler_leaves_half_a_file(error_file, tmp_path):
    """Otherwise engines/error_file.py is no longer needed."""
    status, told = run_function(fail, errors.record, True, folder=tmp_path)
    assert status == -signal.SIGTERM, told
    assert error_file.read_text() == "{"
