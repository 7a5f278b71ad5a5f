"""Build and load the C++ kernel of the backend "cpu", at its first use or in advance with python -m (`make setup`).

The kernel is a shared library that registers PyTorch operators; `kernel_library` tells how it is built and where.
"""

import logging
import sys
from pathlib import Path

import torch

from mamba.mamba_ssm.ops.selective_scan import kernel_library
from mamba.mamba_ssm.ops.selective_scan.kernel_library import ExtensionUnavailableError, Library

logger = logging.getLogger(__name__)

_outcome: list[str | None] = []  # result of the only attempt to load


def torch_library() -> Library:
    """Describe the library of PyTorch's operators, for the installed PyTorch."""
    package = Path(torch.__file__).parent
    include, library_dir = package / "include", package / "lib"
    headers = (f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}")
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    return Library(
        name="vmp_cpu",
        sources=("operators.cpp", "norm_operators.cpp", "probe_operators.cpp"),
        flags=("-O2", "-fopenmp", abi, *headers),
        # OpenMP's symbols are resolved by PyTorch's copy, because a second run-time would start a second set of
        # threads.
        link_flags=(f"-L{library_dir}", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{library_dir}"),
        framework=(torch.__version__,),
    )


def _build_and_load() -> str | None:
    try:
        path = kernel_library.build(torch_library())
        torch.ops.load_library(str(path))
    except ExtensionUnavailableError as error:
        return str(error)
    except OSError as error:
        return f"the library {path} cannot be loaded: {error}; remove it to rebuild it"
    return None


def load_failure() -> str | None:
    """Build (on first use) and load the library; return None or why that failed, the same in every call."""
    # A list instead of functools.cache, through which torch.compile would try to trace the build.
    if not _outcome:
        _outcome.append(_build_and_load())
    return _outcome[0]


def load() -> None:
    """Make torch.ops.vmp_cpu available, building the library on first use; later calls cost nothing.

    Raises:
        ExtensionUnavailableError: The library cannot be built or loaded.
    """
    reason = load_failure()
    if reason is not None:
        raise ExtensionUnavailableError(reason)


def main() -> int:
    """Build and load the library; return 0 even if that fails, because the portable backend works without it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        load()
    except ExtensionUnavailableError as error:
        logger.warning("the C++ kernel is not available, plain PyTorch is used instead: %s", error)
    else:
        chosen = torch.ops.vmp_cpu.use_instruction_set("")
        path = kernel_library.library_path(torch_library())
        logger.info("the C++ kernel is ready: %s, instruction set %s", path, chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
