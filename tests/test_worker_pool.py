"""The worker pool: every job has exactly one outcome, whatever its process does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from datasets.preparation.worker_pool import run_jobs


class Unruly:
    """A value that cannot be pickled, or not unpickled."""

    def __init__(self, how):
        self.how = how

    def __reduce__(self):
        if self.how == "never leaves":
            raise TypeError("stuck here")
        return int, ("not a number",)


def behave(job):
    how, value = job
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "exit":
        os._exit(3)
    if how == "leave":
        sys.exit(3)
    if how == "leave a child":
        if os.fork() == 0:
            time.sleep(100)
        os._exit(3)
    if how == "hang":
        time.sleep(600)
    if how == "return":
        return Unruly(value)
    if how == "raise":
        raise ValueError(f"bad {value}")
    return value * value


def test_a_crash_and_a_hang_cost_their_job_only():
    jobs = [
        ("work", 2),
        ("crash", 0),
        ("work", 3),
        ("hang", 0),
        ("raise", 7),
        ("exit", 0),
        *[("work", i) for i in range(20)],
    ]
    start = time.monotonic()
    outcomes = {
        outcome.job + (i,): outcome for i, outcome in enumerate(run_jobs(behave, jobs, workers=2, time_limit=4))
    }
    assert time.monotonic() - start < 300
    assert sorted(key[:2] for key in outcomes) == sorted(jobs)
    for (how, value, _), outcome in outcomes.items():
        said = {
            "crash": "died (signal 11)",
            "exit": "died (exit status 3)",
            "hang": "time limit",
            "raise": "ValueError: bad 7",
        }
        if how == "work":
            assert (outcome.value, outcome.error) == (value * value, "")
        else:
            assert outcome.value is None and said[how] in outcome.error


def test_a_process_that_dies_at_once_costs_its_job_also_where_no_other_is_running():
    jobs = [("crash", 0), ("exit", 1), ("leave", 2), ("leave a child", 3), ("work", 5)]
    crashed, *left, fine = outcomes = list(run_jobs(behave, jobs, workers=1, time_limit=90))
    assert [outcome.job for outcome in outcomes] == jobs and fine.value == 25
    assert "signal 11" in crashed.error and all("exit status 3" in outcome.error for outcome in left)


def test_a_value_that_cannot_travel_costs_its_job_only():
    jobs = [("return", "never leaves"), ("return", "never arrives"), ("work", 5)]
    left, arrived, fine = run_jobs(behave, jobs, workers=1)
    assert left.error == "TypeError: stuck here" and arrived.error.startswith("ValueError") and fine.value == 25


def test_leaving_early_ends_the_processes():
    outcomes = run_jobs(behave, [("work", 2), ("hang", 0), ("hang", 0)], workers=2, time_limit=500)
    assert next(outcomes).value == 4
    start = time.monotonic()
    outcomes.close()
    assert time.monotonic() - start < 120


def test_files_of_the_current_folder_are_not_taken_for_modules(tmp_path):
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for name in ("socket", "random", "multiprocessing", "selectors"):
        (downloads / f"{name}.py").write_text("raise SystemExit('a file of the current folder was run')\n")
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(Path(__file__).parent.parent)!r}]\n"
        "from datasets.preparation.worker_pool import run_jobs\n"
        "if __name__ == '__main__':\n    print([outcome.value for outcome in run_jobs(abs, [-3], workers=1)])\n"
    )
    run = subprocess.run([sys.executable, script], cwd=downloads, capture_output=True, text=True, timeout=300)
    assert run.stdout == "[3]\n", run.stderr


def test_no_jobs():
    assert list(run_jobs(behave, [])) == []
