"""What the run scripts import before they know what to do."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCRIPTS = ("run_class_finetuning", "run_pretrain_imagenet", "run_action_detection", "run_inference")
SLOW = {
    *("scipy", "sklearn", "pandas", "tensorboard", "numba", "onnx", "onnxruntime", "decord", "torchcodec", "starlette")
}


def test_scripts_import_libraries_of_single_uses_when_they_are_used():
    """These take up to seconds, and `--help` and errors in flags need none of them."""
    code = f"import {', '.join(SCRIPTS)}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert SLOW & set(run.stdout.split()) == set()
    assert "torch" in run.stdout.split(), "the scripts were imported"
