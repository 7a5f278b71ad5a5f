"""Real runs under torchrun: two machines on one, a process that is killed, and one that fails."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.make_moving_digits import make_data_set

ROOT = Path(__file__).parent.parent
CLIPS = dict(seed=0, num_frames=8, size=32, train=12, val=3, test=5, frame_clips=0, images_train=1, images_val=1)
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SCRIPT = "run_class_finetuning.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    make_data_set(folder, CLIPS, workers=1)
    return folder


def flags(data, output, *more):
    small = ["--depth", "2", "--global_batch", "4", "--batch_size", "2", "--num_workers", "0", "--log_interval", "1"]
    return ["--recipe", "moving_digits/nano_f8_res32", "--data_path", str(data / "videos"), "--data_root", str(data),
            "--device", "cpu", "--output_dir", str(output), *small, *more]  # fmt: skip


def start(command, log):
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    with open(log, "w") as file:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)


def workers_of(process):
    """The processes that torchrun started: rank -> process id."""
    ranks = {}
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks |= {int(v.removeprefix(b"RANK=")): int(child) for v in variables if v.startswith(b"RANK=")}
    return ranks


def test_two_machines_train_and_test_together(data, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    nodes = [
        start(
            ["bash", "scripts/launch.sh", SCRIPT, "moving_digits", "--gpus", "0", "--nodes", "2", "--node_rank", rank,
             "--master_addr", "127.0.0.1", "--master_port", port,
             *flags(data, tmp_path / "out", "--epochs", "1", "--parallel", "fsdp")],
            tmp_path / f"node{rank}.log",
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    statuses = [node.wait(timeout=300) for node in nodes]
    assert statuses == [0, 0], "".join((tmp_path / f"node{rank}.log").read_text()[-2000:] for rank in (0, 1))
    [line] = [json.loads(line) for line in (tmp_path / "out" / "log.txt").read_text().splitlines()]
    assert (line["processes"], line["clips_per_update"]) == (2, 4)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["videos"] == CLIPS["test"], "an odd number, shared by two"


def test_a_killed_process_ends_all_and_the_last_lines_say_why(data, tmp_path):
    run = start([*TORCHRUN, SCRIPT, *flags(data, tmp_path / "out", "--epochs", "10000")], tmp_path / "log")
    deadline = time.monotonic() + 240
    while not (tmp_path / "out" / "log.txt").exists():
        assert run.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
        time.sleep(0.2)
    workers = workers_of(run)
    assert sorted(workers) == [0, 1]
    os.kill(workers[1], signal.SIGKILL)
    killed = time.monotonic()
    assert run.wait(timeout=60) != 0
    assert time.monotonic() - killed < 60 and not any(Path(f"/proc/{pid}").exists() for pid in workers.values())
    end = "\n".join((tmp_path / "log").read_text().splitlines()[-30:])
    assert "exitcode  : -9" in end and "Signal 9 (SIGKILL)" in end, end


def test_a_command_line_that_is_refused_ends_all_processes_with_the_reason(data, tmp_path):
    command = [*TORCHRUN, SCRIPT, *flags(data, tmp_path / "out", "--train_list", str(tmp_path / "nowhere.csv"))]
    run = start(command, tmp_path / "log")
    assert run.wait(timeout=240) != 0
    log = (tmp_path / "log").read_text()
    assert "nowhere.csv: there is no such file" in log and "exitcode  : 2" in log.partition("Root Cause")[2], log
