"""A preempted run end to end: launcher, torchrun, two processes with workers; stopped and restarted."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine_standins import run_processes
from forked import run_path
from video_files import numbered_frames, write_folder

from engines.checkpoint import read_checkpoint

ROOT = Path(__file__).parent.parent


SCRIPT = "run_class_finetuning.py"
FLAGS = (  # launch.sh takes `--model NAME` for a word of a recipe's name, and passes on `--model=NAME`
    "--recipe custom --model=videomambapro_nano --device cpu --num_workers 1 --log_interval 1 "
    "--input_size 16 --short_side_size 16 --num_frames 2 --sampling_rate 1 --num_sample 1 --aa none "
    "--batch_size 2 --update_freq 1 --epochs 2 --test_num_segment 1 --test_num_crop 1"
)


@pytest.fixture
def flags(tmp_path):
    for i in range(3):
        write_folder(tmp_path / f"f{i}", numbered_frames(4, 16, 16))
    for name, count in (("train", 32), ("val", 4), ("test", 4)):
        (tmp_path / f"{name}.csv").write_text("".join(f"f{i % 3} 4 {i % 3}\n" for i in range(count)))
    return [*FLAGS.split(), "--data_root", str(tmp_path), "--output_dir", str(tmp_path / "out")]


def go_on(rank, flags, data, log):
    """Run the script as a process of torchrun, without minutes of imports."""
    with open(f"{log}{rank}", "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    run_path(SCRIPT, [*flags, "--data_path", data])


@pytest.mark.slow
def test_a_preempted_run_saves_leaves_with_75_and_goes_on(flags, tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    command = ["bash", str(ROOT / "scripts" / "launch.sh"), SCRIPT, "custom", "--gpus", "2", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    reported = []
    for line in process.stderr:
        reported.append(line)
        if "step 2/8" in line:
            process.send_signal(signal.SIGUSR1)
    assert process.wait(120) == 75, "".join(reported)
    assert any("stopped by SIGUSR1: exiting with status 75" in line for line in reported), "".join(reported)
    saved = read_checkpoint(tmp_path / "out" / "checkpoint-latest.pth")
    assert saved["epoch"] == 0 and 2 <= saved["step"] < 8 and len(saved["random"]) == 2

    run_processes(go_on, 2, flags, str(tmp_path), str(tmp_path / "log"))
    assert f"0 of 2 epochs and {saved['step']} of 8 steps done" in (tmp_path / "log0").read_text()
    assert [json.loads(line)["epoch"] for line in (tmp_path / "out" / "log.txt").read_text().splitlines()] == [0, 1]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["videos"] == 4
