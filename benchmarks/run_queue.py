"""Run commands that each write results.json to a separate folder; finished ones are not repeated."""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def run_missing(
    commands: dict[str, list[str]],
    output: Path,
    jobs: int,
    *,
    limit_threads: bool = True,
    restart_flag: str = "--no_auto_resume",
) -> list[str]:
    """Run the commands that have not finished, `jobs` in parallel, each with its share of the CPU cores.

    Args:
        commands: Command of each run, by the name of its folder in `output`; it writes results.json to this folder.
        output: Parent of the folders; each run is logged to run.log in its folder.
        jobs: Number of parallel runs.
        limit_threads: Limit each run to CPU cores / jobs threads, unless OMP_NUM_THREADS is set.
        restart_flag: Flag that restarts a run if its folder contains one with other settings; "" if the command
            always restarts.

    Returns:
        The names of the runs that failed.
    """
    missing = [name for name, command in commands.items() if not is_finished(output / name, command)]
    print(f"{len(commands) - len(missing)} of {len(commands)} runs exist; {jobs} in parallel", flush=True)
    share = str(max(1, (os.cpu_count() or 1) // jobs))
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", share)} if limit_threads else {}
    start, failed = time.monotonic(), []
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda name: (name, _run(output / name, commands[name], threads, restart_flag)), missing)
        for done, (name, status) in enumerate(results, start=1):
            if status:
                failed.append(name)
            left = (time.monotonic() - start) / done * (len(missing) - done) / 60
            print(f"{done}/{len(missing)} {name}: {'failed' if status else 'done'}; about {left:.0f} min left",
                  flush=True)  # fmt: skip
    return failed


def command_line(module: str, arguments: Sequence[str] | None) -> str:
    """Return the command that creates a document: that of this process without --table_only, which runs nothing."""
    words = arguments if arguments is not None else sys.argv[1:]
    return shlex.join(["python", "-m", module, *(word for word in words if word != "--table_only")])


def machine() -> str:
    """Describe the machine and the version of PyTorch."""
    return f"{platform.machine()}, {os.cpu_count()} CPU cores, PyTorch {torch.__version__.split('+')[0]}"


def read_results(folder: Path) -> dict | None:
    """Return the contents of a run's results.json; None if it has not finished."""
    file = folder / "results.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def exit_status(failed: Sequence[str], output: Path) -> int:
    """Name the runs that failed, with their logs, and return the exit status of the benchmark."""
    for name in failed:
        print(f"failed: {name}, see {output / name / 'run.log'}", file=sys.stderr)
    return 1 if failed else 0


def is_finished(folder: Path, command: list[str]) -> bool:
    """Return whether the run in a folder has finished with the same command."""
    return (folder / "results.json").is_file() and _same_command(folder, command)


def _same_command(folder: Path, command: list[str]) -> bool:
    saved = folder / "command.json"
    return saved.is_file() and json.loads(saved.read_text()) == command


def _run(folder: Path, command: list[str], environment: dict[str, str], restart_flag: str) -> int:
    """Run one command; a run with other settings in the same folder is not resumed."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = [restart_flag] if restart_flag and not _same_command(folder, command) else []
    (folder / "results.json").unlink(missing_ok=True)
    if not fresh or not any(folder.glob("checkpoint-*.pth")):
        (folder / "command.json").write_text(json.dumps(command))
    with open(folder / "run.log", "a", encoding="utf-8") as log:
        status = subprocess.run(
            [*command, *fresh], cwd=ROOT, env=os.environ | environment, stdout=log, stderr=log
        ).returncode
    if status == 0:
        (folder / "command.json").write_text(json.dumps(command))
    return status
