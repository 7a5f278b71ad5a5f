"""Find the compiled modules of an installed mamba-ssm and causal-conv1d, or explain why they cannot be used."""

import functools
import importlib
import importlib.metadata
import logging
from typing import Any, NamedTuple

import torch

SCAN_MODULE = "selective_scan_cuda"
CONVOLUTION_MODULE = "causal_conv1d_cuda"
PACKAGES = {SCAN_MODULE: "mamba-ssm", CONVOLUTION_MODULE: "causal-conv1d"}
# Python modules with the differentiable functions. That of mamba-ssm can be imported without its compiled module.
INTERFACES = {SCAN_MODULE: "mamba_ssm.ops.selective_scan_interface", CONVOLUTION_MODULE: "causal_conv1d"}

# mamba-ssm's sources since July 2026 compile the scan only if the variable is set; older ones ignore it.
INSTALL = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation -r requirements-cuda.txt"
# Without --no-cache-dir, pip would reuse the broken wheel that it has built before.
REINSTALL = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation --no-deps --no-cache-dir --force-reinstall "

logger = logging.getLogger(__name__)


class Fault(NamedTuple):
    """Why a compiled module cannot be used.

    Attributes:
        problem: Description of the problem.
        remedy: Command that fixes it.
        installed: Whether the package is installed, even if incomplete or broken.
    """

    problem: str
    remedy: str
    installed: bool

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}"


@functools.cache
def load_extension(name: str) -> tuple[Any, Fault | None]:
    """Import a compiled module and its interface; warn once if they are broken.

    Args:
        name: Key of PACKAGES.

    Returns:
        (the interface, None) or (None, the fault).
    """
    package = PACKAGES[name]
    remedy = REINSTALL + package
    try:
        importlib.import_module(name)
        return importlib.import_module(INTERFACES[name]), None
    except ModuleNotFoundError as error:
        if error.name == name:
            return None, _absence(name)
        message, remedy = str(error), f"pip install {error.name}"
    except (ImportError, OSError) as error:
        message = str(error)
    fault = Fault(f"{package} is installed but broken: {explain_import_error(message)}", remedy, installed=True)
    logger.warning("%s", fault)
    return None, fault


def _absence(name: str) -> Fault:
    """Determine whether the package is missing or only its compiled module."""
    package = PACKAGES[name]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Fault(f"{package} is not installed (optional if Triton works)", INSTALL, installed=False)
    problem = f"{package} {version} was installed without its compiled module {name}"
    return Fault(problem, REINSTALL + package, installed=True)


def explain_import_error(message: str) -> str:
    """Explain a message of the dynamic loader."""
    if "undefined symbol" in message:
        return f"it was built against another PyTorch ({message})"
    if "libcudart" in message or "libcublas" in message or "libnv" in message:
        return f"it was built for another CUDA version than this PyTorch, {torch.version.cuda} ({message})"
    return message
