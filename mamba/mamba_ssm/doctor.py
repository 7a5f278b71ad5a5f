"""Tells what this machine can run the scan with, what is missing, and the one command that mends it.

    python -m mamba.mamba_ssm.doctor

Exit status 0 where the fastest backend for the device at hand is available, else 1.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from typing import NamedTuple

import torch

from mamba.mamba_ssm.ops.selective_scan import stock
from mamba.mamba_ssm.ops.selective_scan.dispatch import (
    BACKEND_VARIABLE,
    BACKENDS,
    FALLBACK_PREFERENCE,
    PREFERENCE,
    available_backends,
)

PACKAGES = ("torch", "triton", "mamba-ssm", "causal-conv1d")
INSTALL_PYTORCH = "pip install --force-reinstall torch torchvision"  # PyPI's wheels for Linux are built for CUDA
INSTALL_OLDER_CUDA = INSTALL_PYTORCH + " --index-url https://download.pytorch.org/whl/cu126"
REINSTALL = "pip install --no-build-isolation --no-deps --force-reinstall {package}"
INSTALL_COMPILER = "apt-get install g++"


class Finding(NamedTuple):
    """Something that is missing or could be faster: what, the command that mends it, whether it stands in the way."""

    problem: str
    remedy: str
    matters: bool


def versions() -> dict[str, str]:
    """Versions of Python, the packages, CUDA and the C++ compiler; "not installed" where there is none."""
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
    """The GPUs that PyTorch can use: name, compute capability, memory."""
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
    """Whether NVIDIA's driver is there, whatever PyTorch can do with it."""
    return shutil.which("nvidia-smi") is not None


def findings() -> list[Finding]:
    """What is missing here, the most important first."""
    found = []
    if not gpus():
        if driver_is_installed() and torch.version.cuda is None:
            found.append(
                Finding("this PyTorch is built for the CPU, but there is an NVIDIA driver", INSTALL_PYTORCH, True)
            )
        elif driver_is_installed():
            problem = f"PyTorch for CUDA {torch.version.cuda} cannot use the NVIDIA driver that is installed"
            found.append(Finding(f"{problem} (too old?)", INSTALL_OLDER_CUDA, True))
        else:
            found.append(
                Finding("no NVIDIA GPU: training on video wants one; the CPU serves", "nothing to install", False)
            )
        if _compiler_version() == "not installed" and available_backends("cpu").get("cpu") != "available":
            found.append(Finding("no C++ compiler: the CPU kernel cannot be built", INSTALL_COMPILER, True))
        return found
    needs_stock_kernels = importlib.util.find_spec("triton") is None
    if needs_stock_kernels:
        found.append(Finding("a GPU, but no Triton: the fused kernels cannot run", "pip install triton", True))
    for module, package in stock.PACKAGES.items():
        extension, reason = stock.load_extension(module)
        if extension is not None:
            continue
        if "broken" in reason:
            found.append(Finding(reason, REINSTALL.format(package=package), needs_stock_kernels))
        else:
            problem = f"{package} is not installed; it is optional where Triton runs"
            found.append(Finding(problem, "pip install --no-build-isolation -r requirements-cuda.txt", False))
    return found


def report() -> tuple[list[str], bool]:
    """The doctor's lines, and whether all is well."""
    lines = ["Versions"]
    lines += [f"  {name:<16} {version}" for name, version in versions().items()]
    cards = gpus()
    lines += ["GPU", *(f"  {card}" for card in cards or ["none that PyTorch can use"])]
    kind = "cuda" if cards else "cpu"
    reasons = available_backends(kind, torch.float32)
    preferred = PREFERENCE.get(kind, FALLBACK_PREFERENCE)
    chosen = next(name for name in preferred if reasons[name] == "available")
    lines += [f"Backends for {kind}, in the order of choice"]
    for name in (*preferred, *(name for name in BACKENDS if name not in preferred)):
        lines.append(f"  {name:<16} {reasons[name]}{' <- chosen' if name == chosen else ''}")
    if os.environ.get(BACKEND_VARIABLE):
        lines.append(f"  {BACKEND_VARIABLE}={os.environ[BACKEND_VARIABLE]} overrides the choice")
    found = findings()
    lines += ["To mend" if any(finding.matters for finding in found) else "Notes"]
    lines += [f"  {finding.problem}\n      {finding.remedy}" for finding in found] or ["  nothing is missing"]
    return lines, chosen == preferred[0] and not any(finding.matters for finding in found)


def main() -> int:
    """Writes the report to the terminal; 0 if all is well."""
    lines, well = report()
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
