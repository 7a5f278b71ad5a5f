"""What the run scripts import before they know what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from models.arguments import MASK_TYPES
from models.masks import MASKS

ROOT = Path(__file__).parent.parent
SCRIPTS = ("run_class_finetuning", "run_pretrain_imagenet", "run_action_detection", "run_inference")
SLOW = {
    *("scipy", "sklearn", "pandas", "tensorboard", "numba", "onnx", "onnxruntime", "decord", "torchcodec", "starlette")
}
HEAVY = {"torch", "torchvision", "timm", "huggingface_hub", "av"} | SLOW


def python(*words):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True)


def test_scripts_import_libraries_of_single_uses_when_they_are_used():
    """These take up to seconds, and errors in flags need none of them."""
    code = f"import {', '.join(SCRIPTS)}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    found = python("-c", code).stdout.split()
    assert SLOW & set(found) == set()
    assert "torch" in found, "the scripts were imported"


@pytest.mark.parametrize(
    "script", ["run_class_finetuning", "run_pretrain_imagenet", "run_pretrain_masked", "run_action_detection"]
)
def test_the_help_of_a_run_imports_no_heavy_library(script):
    """It takes less time than `import torch` alone."""
    run = python("-X", "importtime", f"{script}.py", "--help")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in run.stderr.splitlines()}
    assert HEAVY & imported == set()
    assert "argparse" in imported and "--batch_size" in run.stdout and "--depth" in run.stdout


@pytest.mark.parametrize("words", ["from models import VideoMambaPro", "import models.videomambapro"])
def test_import_of_the_models_registers_them_with_timm_and_that_of_the_package_is_light(words):
    code = (
        "import models, sys; print(*sys.modules); import timm; print(timm.is_model('videomambapro_tiny')); "
        f"{words}; print(timm.is_model('videomambapro_tiny'))"
    )
    imported, *registered = python("-c", code).stdout.splitlines()
    assert HEAVY & set(imported.split()) == set()
    assert registered == ["False", "True"]


def test_choices_declared_without_torch_are_those_of_the_implementation():
    assert ("attention", *MASKS) == MASK_TYPES
