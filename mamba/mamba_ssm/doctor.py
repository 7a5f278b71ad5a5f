"""Report which scan backends this machine can run, what is missing, and the commands that fix it.

    python -m mamba.mamba_ssm.doctor

The exit status is 0 if the fastest backend for the available device works, else 1.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from typing import NamedTuple

import torch
from torch.torch_version import TorchVersion

from mamba.mamba_ssm.ops.selective_scan import stock_packages
from mamba.mamba_ssm.ops.selective_scan.dispatch import (
    BACKEND_VARIABLE,
    BACKENDS,
    FALLBACK_PREFERENCE,
    PREFERENCE,
    available_backends,
)

PACKAGES = ("torch", "triton", "numpy", "mamba-ssm", "causal-conv1d")
OPTIONAL = {
    "tools.checkpoint hub": ("huggingface_hub",),
    "tools.export --format transformers": ("transformers",),
    "tools.export model.onnx": ("onnx", "onnxscript", "onnxruntime"),
    "run_demo_app.py": ("starlette", "uvicorn"),
    "--reader torchcodec": ("torchcodec",),
    "--track trackio": ("trackio",),
    "--track wandb": ("wandb",),
    "--track mlflow": ("mlflow",),
}
"""What takes a model or a run elsewhere or videos in, with the packages that each needs beside requirements.txt."""
INSTALL_FFMPEG = "apt install ffmpeg"
INSTALL_PYTORCH = "pip install --force-reinstall torch torchvision"  # PyPI's wheels for Linux are built for CUDA
OLDER_CUDA = "12.6"
INSTALL_OLDER_CUDA = f"{INSTALL_PYTORCH} --index-url https://download.pytorch.org/whl/cu{OLDER_CUDA.replace('.', '')}"
UPDATE_DRIVER = "update the NVIDIA driver: https://www.nvidia.com/drivers"
INSTALL_COMPILER = "apt-get install g++"
# Triton's interpreter converts arrays of one element to Python numbers, which NumPy 2.4 refuses; Triton 3.7 does not.
TRITON_WITH_ANY_NUMPY, STRICT_NUMPY = TorchVersion("3.7"), TorchVersion("2.4")
INSTALL_OLDER_NUMPY = "pip install 'numpy<2.4'"


class Finding(NamedTuple):
    """Something that is missing or could be faster.

    Attributes:
        problem: Description of the problem.
        remedy: Command that fixes it.
        matters: Whether it prevents the fastest backend from running.
    """

    problem: str
    remedy: str
    matters: bool


def versions() -> dict[str, str]:
    """Return the versions of Python, packages, CUDA and C++ compiler, or "not installed"."""
    found = {"python": platform.python_version()}
    found |= {name: _package_version(name) for name in PACKAGES}
    found["CUDA of PyTorch"] = torch.version.cuda or "none, this PyTorch is built for the CPU"
    found["C++ compiler"] = _compiler_version()
    return found


def _package_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _compiler_version() -> str:
    compiler = os.environ.get("CXX") or next((name for name in ("g++", "clang++") if shutil.which(name)), None)
    if compiler is None or shutil.which(compiler) is None:
        return "not installed"
    run = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return run.stdout.splitlines()[0] if run.stdout else compiler


def gpus() -> list[str]:
    """Describe the GPUs that PyTorch can use: name, compute capability, memory."""
    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"{properties.major}.{properties.minor}"
        memory = properties.total_memory / 2**30
        found.append(f"{properties.name}, compute capability {capability}, {memory:.0f} GiB")
    return found


def driver_is_installed() -> bool:
    """Return whether an NVIDIA driver is installed, usable by PyTorch or not."""
    return shutil.which("nvidia-smi") is not None


def findings() -> list[Finding]:
    """Return what is missing on this machine, the most important first."""
    found = []
    if not gpus():
        if driver_is_installed() and torch.version.cuda is None:
            found.append(
                Finding("this PyTorch is built for the CPU, but an NVIDIA driver is installed", INSTALL_PYTORCH, True)
            )
        elif driver_is_installed():
            problem = f"PyTorch for CUDA {torch.version.cuda} cannot use the installed NVIDIA driver (too old?)"
            is_older = torch.version.cuda == OLDER_CUDA
            found.append(Finding(problem, UPDATE_DRIVER if is_older else INSTALL_OLDER_CUDA, True))
        else:
            found.append(
                Finding("no NVIDIA GPU: the CPU works, but training on video is slow", "nothing to install", False)
            )
        if _compiler_version() == "not installed" and available_backends("cpu").get("cpu") != "available":
            found.append(Finding("no C++ compiler: the CPU kernel cannot be built", INSTALL_COMPILER, True))
        return found
    needs_stock_kernels = importlib.util.find_spec("triton") is None
    if needs_stock_kernels:
        found.append(Finding("a GPU, but no Triton: the fused kernels cannot run", "pip install triton", True))
    for module in stock_packages.PACKAGES:
        fault = stock_packages.load_extension(module)[1]
        if fault is not None:
            found.append(Finding(fault.problem, fault.remedy, fault.installed and needs_stock_kernels))
    return found


def optional_tools() -> list[str]:
    """Return a line for each optional tool, with the command that installs what it misses."""
    lines = []
    for tool, packages in OPTIONAL.items():
        missing = [name for name in packages if _package_version(name) == "not installed"]
        state = f"pip install {' '.join(missing)}" if missing else ", ".join(map(_with_version, packages))
        if packages == ("torchcodec",) and not missing and not torchcodec_finds_ffmpeg():
            state += f", but without FFmpeg's libraries, or for another PyTorch: {INSTALL_FFMPEG} (docs/data.md)"
        lines.append(f"{tool:<34} {state}")
    return lines


def torchcodec_finds_ffmpeg() -> bool:
    """Return whether torchcodec loads the libraries of FFmpeg, which its wheels do not contain."""
    try:
        return getattr(importlib.import_module("torchcodec"), "ffmpeg_major_version", None) is not None
    except (ImportError, OSError, RuntimeError):  # versions before 0.17 load them when they are imported
        return False


def _with_version(package: str) -> str:
    return f"{package} {_package_version(package)}"


def interpreter_fault() -> Finding | None:
    """Return why Triton's interpreter, which only tests need, cannot run with the installed NumPy, or None."""
    triton, numpy = _package_version("triton"), _package_version("numpy")
    if "not installed" in (triton, numpy):
        return None
    if TorchVersion(triton) >= TRITON_WITH_ANY_NUMPY or TorchVersion(numpy) < STRICT_NUMPY:
        return None
    problem = f"the interpreter of Triton {triton}, for tests without a GPU, cannot run with NumPy {numpy}"
    return Finding(problem, INSTALL_OLDER_NUMPY, False)


def report() -> tuple[list[str], bool]:
    """Return the lines of the report, and whether the fastest backend works."""
    lines = ["Versions"]
    lines += [f"  {name:<16} {version}" for name, version in versions().items()]
    cards = gpus()
    lines += ["GPU", *(f"  {card}" for card in cards or ["none that PyTorch can use"])]
    kind = "cuda" if cards else "cpu"
    reasons = available_backends(kind, torch.float32)
    preferred = PREFERENCE.get(kind, FALLBACK_PREFERENCE)
    chosen = next(name for name in preferred if reasons[name] == "available")
    lines += [f"Backends for {kind}, in order of preference"]
    for name in (*preferred, *(name for name in BACKENDS if name not in preferred)):
        lines.append(f"  {name:<16} {reasons[name]}{' <- chosen' if name == chosen else ''}")
    if os.environ.get(BACKEND_VARIABLE):
        lines.append(f"  {BACKEND_VARIABLE}={os.environ[BACKEND_VARIABLE]} overrides the choice")
    lines += ["Optional tools", *(f"  {line}" for line in optional_tools())]
    fault = interpreter_fault()
    found = findings() + ([fault] if fault else [])
    lines += ["To fix" if any(finding.matters for finding in found) else "Notes"]
    lines += [f"  {finding.problem}\n      {finding.remedy}" for finding in found] or ["  nothing is missing"]
    return lines, chosen == preferred[0] and not any(finding.matters for finding in found)


def main() -> int:
    """Print the report; return 0 if the fastest backend works, else 1."""
    lines, well = report()
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
