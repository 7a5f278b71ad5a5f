"""What programs import before they know what to do."""

import subprocess
import sys
from pathlib import Path

import pytest
from clean_process import outcomes

from mamba.mamba_ssm.ops.selective_scan.dispatch import BACKENDS
from mamba.mamba_ssm.variants import SCAN_BACKENDS
from models.arguments import MASK_TYPES
from models.masks import MASKS

ROOT = Path(__file__).parent.parent
SCRIPTS = ("run_class_finetuning", "run_pretrain_imagenet", "run_action_detection", "run_inference")
SLOW = {
    *("scipy", "sklearn", "pandas", "tensorboard", "numba", "onnx", "onnxruntime", "decord", "torchcodec", "starlette")
}
HEAVY = {"torch", "torchvision", "timm", "huggingface_hub", "av"} | SLOW
PROGRAMS = [path.stem for path in sorted(ROOT.glob("run_*.py"))]
PROGRAMS += [f"tools.{path.stem}" for path in sorted((ROOT / "tools").glob("*.py")) if "__main__" in path.read_text()]
FAULTS = [
    ("run_inference", "--checkpoint gone.pth v.mp4", "--checkpoint gone.pth: there is no such file"),
    ("run_inference", "--checkpoint gone.pth gone.csv", "list file gone.csv does not exist"),
    ("run_inference", "--checkpoint gone.pth v.mp4 --live_backlog 9", "--live_backlog: no effect without --live"),
    ("run_inference", "--checkpoint gone.pth v.mp4 --backend fastest", "invalid choice: 'fastest'"),
    ("run_class_finetuning", "--data_pth gone", "unrecognized arguments: --data_pth gone; did you mean --data_path"),
    ("run_demo_app", "--checkpoint gone.pth", "--checkpoint gone.pth: there is no such file"),
    ("tools.checkpoint", "inspect gone.pth", "checkpoint gone.pth: there is no such file"),
    ("tools.checkpoint", "hub README.md tools", "tools is not an empty folder"),
    ("tools.compare", "gone.json gone.json", "gone.json is not a file; name the results.json in the --output_dir"),
    ("tools.export", "gone.pth model.onnx --backend cpu", "--backend is for .pt2 files"),
    ("tools.export", "gone.pth model.pt2", "checkpoint gone.pth: there is no such file"),
    ("tools.features", "gone.pth v.mp4 --output new", "checkpoint gone.pth: there is no such file"),
    ("tools.features", "README.md gone.csv --output new", "list file gone.csv does not exist"),
    ("tools.features", "gone.pth v.mp4 --output new --stride 4", "give --window as well"),
    ("tools.report", "gone", "gone is not a folder"),
    ("tools.weights", "check gone.pth --name videomamba_t16_in1k_res224.pth", "gone.pth: there is no such file"),
    ("tools.weights", "show videomamba_t16", "is not in the table of published weights"),
]


def heavy(program):
    """Return the libraries that a program needs for its work only; some tools are made to look into videos."""
    return HEAVY - {"av"} if program.startswith("tools.") else HEAVY


INTERPRETER = f"""
import models, os, sys
print(*sys.modules, flush=True)
import timm
for words in ("from models import VideoMambaPro", "import models.videomambapro", "import {", ".join(SCRIPTS)}"):
    before = timm.is_model("videomambapro_tiny")
    if os.fork() == 0:
        exec(words)
        print(before, timm.is_model("videomambapro_tiny"), *sys.modules, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, words
"""


@pytest.fixture(scope="module")
def imported():
    """The modules in a new interpreter after `import models`; then, for each way of importing the models, those in a
    fork, after whether timm knew the models before and after.
    """
    words = [sys.executable, "-c", INTERPRETER]
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [line.split() for line in printed.splitlines()]


def test_scripts_import_libraries_of_single_uses_when_they_are_used(imported):
    """These take up to seconds, and errors in flags need none of them."""
    found = {name.partition(".")[0] for name in imported[-1]}
    assert SLOW & found == set()
    assert {"torch", *SCRIPTS} <= found, "the scripts were imported"


def test_import_of_the_models_registers_them_with_timm_and_that_of_the_package_is_light(imported):
    alone, *forks = imported
    assert HEAVY & set(alone) == set()
    assert [fork[:2] for fork in forks] == [["False", "True"]] * 3


@pytest.fixture(scope="module")
def outcome():
    """Every program's --help, a wrong flag for each, and the faults: command line -> how it ended."""
    lines = [(program, words) for program in PROGRAMS for words in ("--help", "--no_such_flag")]
    lines += [(program, *words.split()) for program, words, _ in FAULTS]
    return dict(zip(lines, outcomes(lines), strict=True))


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_of_a_program_and_wrong_flags_need_no_heavy_library(program, outcome):
    """They take less time than `import torch` alone."""
    shown, refused = outcome[program, "--help"], outcome[program, "--no_such_flag"]
    assert shown.status == 0 and shown.output.startswith("usage: ")
    assert refused.status == 2 and refused.output.count("\n") == 1
    assert "--no_such_flag" in refused.output or "are required" in refused.output
    for ended in (shown, refused):
        assert "argparse" in ended.imported, "the control"
        assert heavy(program) & set(ended.imported) == set()


def test_the_help_of_a_run_has_the_flags_of_data_and_model(outcome):
    for script in ("run_class_finetuning", "run_pretrain_imagenet", "run_pretrain_masked", "run_action_detection"):
        assert {"--batch_size", "--depth"} <= set(outcome[script, "--help"].output.split())


@pytest.mark.parametrize(("program", "words", "fault"), FAULTS)
def test_missing_files_and_flags_in_vain_are_told_without_a_heavy_library(program, words, fault, outcome):
    ended = outcome[program, *words.split()]
    assert ended.status in (1, 2) and ended.output.count("\n") == 1
    assert fault in ended.output
    assert heavy(program) & set(ended.imported) == set()


def test_choices_declared_without_torch_are_those_of_the_implementation():
    assert ("attention", *MASKS) == MASK_TYPES
    assert tuple(BACKENDS) == SCAN_BACKENDS
