"""A stop signal in the first seconds, and one whose exception is swallowed: a message and status 75, no data loss."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine_standins import Interrupted, test_loader, train

from engines.checkpoint import read_checkpoint

ROOT = Path(__file__).parent.parent
# Runs a script as python does, and has the signal come when torch begins to be imported.
SIGNAL_AT_TORCH = """
import os, runpy, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "torch":
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Finder())
sys.argv += {words}
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("script", ["run_action_detection.py", "run_class_finetuning.py", "run_pretrain_imagenet.py"])
def test_a_signal_while_a_script_imports(script, number, tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.csv").write_text("a.mp4 0\n")
    (tmp_path / "label_map.pbtxt").write_text('item { name: "a" id: 1 }\n')
    (tmp_path / "test_predicted_boxes.csv").touch()
    code = SIGNAL_AT_TORCH.format(number=int(number), words=["--data_path", str(tmp_path)], script=script)
    environment = os.environ | {"VIDEOMAMBAPRO_EXIT_FILE": str(tmp_path / "status"), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert ended.returncode == 75
    assert ended.stderr == f"stopped by {number.name} before the run began: exiting with status 75\n"
    # SIGTERM may come from a launcher that ends the rest of a run that failed.
    assert (tmp_path / "status").exists() == (number == signal.SIGUSR1)


def test_a_stop_whose_exception_is_swallowed_is_not_forgotten(tmp_path, monkeypatch):
    """Simulate a destructor, in which Python may call a signal handler."""

    def swallowed():
        with contextlib.suppress(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)

    at_validation = Interrupted(7, at=3, action=swallowed)
    monkeypatch.setattr("engine_standins.test_loader", lambda *_: test_loader(at_validation, 2))
    with pytest.raises(SystemExit) as stop:
        train(tmp_path)
    assert stop.value.code == 75
    assert read_checkpoint(tmp_path / "checkpoint-latest.pth")["step"] == 4, "the next update is the last one"
