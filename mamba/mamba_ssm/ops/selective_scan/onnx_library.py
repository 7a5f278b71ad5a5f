"""Build the library that adds the C++ kernels to ONNX Runtime as operators, for files of tools.export --onnx_kernel.

    python -m mamba.mamba_ssm.ops.selective_scan.onnx_library [FILE.so]

Without FILE, the library stays where `kernel_library` builds it, and its path is printed. It needs neither PyTorch nor
headers of ONNX Runtime (see mamba/csrc/onnx_runtime.h) and serves every ONNX Runtime from 1.17 on, on every processor
of the architecture.
"""

import argparse
import logging
import sys
from pathlib import Path

from common.files import atomic_write
from common.flag_parser import FlagParser
from mamba.mamba_ssm.ops.selective_scan.kernel_library import ExtensionUnavailableError, Library, build

FILE_NAME = "videomambapro_onnx.so"
"""Name of the library beside an exported file."""
DOMAIN, VERSION = "videomambapro", 1
"""Of the operators; a change that older files do not expect increases the version."""
LIBRARY = Library(name="vmp_onnx", sources=("onnx_operators.cpp",), flags=("-O2",))


def copy_library(target: Path) -> None:
    """Build the library unless it exists, and copy it to `target`.

    Raises:
        ExtensionUnavailableError: It cannot be built.
        OSError: `target` cannot be written.
    """
    content = build(LIBRARY).read_bytes()
    with atomic_write(target) as file:
        file.write(content)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help=f"copy of the library, for example {FILE_NAME}")
    options = parser.parse_args(arguments)
    try:
        if options.file is not None:
            copy_library(options.file)
        sys.stdout.write(f"{options.file or build(LIBRARY)}\n")
    except (ExtensionUnavailableError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
