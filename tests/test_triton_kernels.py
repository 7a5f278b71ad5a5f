"""Run tests/triton_interpreted with Triton's interpreter, in a separate process."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mamba.mamba_ssm import doctor

ROOT = Path(__file__).parent.parent

FAULT = doctor.interpreter_fault()
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(FAULT is not None, reason=f"{FAULT and FAULT.problem}: {FAULT and FAULT.remedy}"),
]


def run_interpreted(path: str, *selection: str) -> int:
    """Passed tests of a selection; fails with the run's output if one failed."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path, *selection]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    return int(re.search(r"(\d+) passed", run.stdout)[1])


def test_shapes_types_and_switches_under_the_interpreter():
    assert run_interpreted("tests/triton_interpreted", "-k", "not published") >= 50


def test_fused_addition_and_norm_under_the_interpreter():
    assert run_interpreted("tests/test_add_norm.py", "-k", "not float64") >= 50


@pytest.mark.slow
def test_published_outputs_and_gradients_under_the_interpreter():
    assert run_interpreted("tests/triton_interpreted", "-k", "published") >= 72
