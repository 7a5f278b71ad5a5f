"""Runs commands that each write a results.json into a folder of their own; what has finished is not run again."""

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
    """Run the commands that have not finished, `jobs` at a time, each with its share of the CPU cores.

    Args:
        commands: name of a run, which is its folder below `output` -> command that writes results.json there.
        output: parent of the folders; a run's output goes to run.log in its folder.
        jobs: runs at a time.
        limit_threads: give each run CPU cores / jobs threads, unless OMP_NUM_THREADS says how many.
        restart_flag: has a command start again where its folder holds a run of other settings; "" where it always
            does.

    Returns:
        the names of the runs that failed.
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
    """Return the command that makes a document: this process's, without --table_only, which makes nothing."""
    words = arguments if arguments is not None else sys.argv[1:]
    return shlex.join(["python", "-m", module, *(word for word in words if word != "--table_only")])


def machine() -> str:
    """Name what a measurement depends on beside its command."""
    return f"{platform.machine()}, {os.cpu_count()} CPU cores, PyTorch {torch.__version__.split('+')[0]}"


def is_finished(folder: Path, command: list[str]) -> bool:
    """Whether the run of `folder` has been tested, with the same command."""
    return (folder / "results.json").is_file() and _same_command(folder, command)


def _same_command(folder: Path, command: list[str]) -> bool:
    saved = folder / "command.json"
    return saved.is_file() and json.loads(saved.read_text()) == command


def _run(folder: Path, command: list[str], environment: dict[str, str], restart_flag: str) -> int:
    """Run one command; what other settings left in the folder is not continued."""
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
