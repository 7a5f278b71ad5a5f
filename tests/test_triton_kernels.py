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
# What the kernels do not compute is the same under the interpreter.
SELECTION = "not [cpu- and not [portable- and not float64"

FAULT = doctor.interpreter_fault()
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(FAULT is not None, reason=f"{FAULT and FAULT.problem}: {FAULT and FAULT.remedy}"),
]


@pytest.mark.slow
def test_kernels_under_the_interpreter():
    """Shapes, types and switches, published outputs and gradients, and the fused addition and norm."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    paths = ("tests/triton_interpreted", "tests/test_add_norm.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths, "-k", SELECTION]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= 200
