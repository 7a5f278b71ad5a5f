"""Checks before an export, without PyTorch.

Commands make them before PyTorch is imported, and functions again, for their callers from Python.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from common.files import require_weights

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def check_file_export(checkpoint: Path, target: Path, *, backend: str | None, onnx_kernel: bool) -> None:
    """Check the arguments of `tools.export_file.export`.

    Raises:
        FileNotFoundError: The checkpoint does not exist.
        ValueError: The suffix is unknown or does not go with the other arguments, or a package is missing.
    """
    to_onnx = target.suffix == ".onnx"
    if target.suffix not in (".onnx", ".pt2"):
        raise ValueError(f"{target}: the target must be .onnx or .pt2, or a folder with --format transformers")
    if onnx_kernel and not to_onnx:
        raise ValueError(f"{target}: --onnx_kernel is for .onnx files")
    if backend and to_onnx:
        raise ValueError(f"{target}: --backend is for .pt2 files; --onnx_kernel chooses the C++ kernels")
    if to_onnx:
        _require_packages("ONNX export", ONNX_PACKAGES)
    require_weights(checkpoint)


def check_transformers_export(checkpoint: Path, target: Path) -> None:
    """Check the arguments of `tools.transformers_folder.folder.export_folder`.

    Raises:
        FileNotFoundError: The checkpoint does not exist.
        ValueError: transformers is missing, or the folder is not empty.
    """
    _require_packages("--format transformers", ("transformers",))
    check_folder(checkpoint, target)


def check_folder(checkpoint: Path, target: Path) -> None:
    """Check the arguments of a function that writes a folder.

    Raises:
        FileNotFoundError: The checkpoint does not exist.
        ValueError: The folder is not empty, so that something in it would be replaced.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is not an empty folder; name a new one")
    require_weights(checkpoint)


def _require_packages(purpose: str, packages: Sequence[str]) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{purpose} needs {', '.join(missing)}: pip install {' '.join(missing)}")
