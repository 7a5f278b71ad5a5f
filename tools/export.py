"""Export a checkpoint to ONNX, torch.export or transformers, and check the result against PyTorch before it is kept.

    python -m tools.export CHECKPOINT model.onnx    standard ONNX operators, the scan as a loop; runs without this code
    python -m tools.export CHECKPOINT model.onnx --onnx_kernel    the C++ kernels as operators of ONNX Runtime, many
                                                    times faster on a CPU; their library is put beside the file
    python -m tools.export CHECKPOINT model.pt2     torch.export, the scan as one operator of this repository
    python -m tools.export CHECKPOINT DIR --format transformers    a folder with the code, for pipeline(...) anywhere

The input of files is float32 (batch, 3, frames, height, width), normalised as in training, with any batch size, and
with any number of frames for --onnx_kernel if the model is for more than one tubelet.
docs/export.md describes how to use the files, docs/hub.md the folder.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.flag_parser import FlagParser
from common.flag_types import positive
from common.terminal import escape_output
from mamba.mamba_ssm.variants import SCAN_BACKENDS
from tools.export_checks import check_file_export, check_transformers_export
from tools.hub_arguments import add_card_arguments

CARD_FLAGS = ("results", "name", "data", "license")  # a file has names and reading of `add_card_arguments`, no card


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    escape_output()
    options = parse_arguments(arguments)
    try:
        check_request(options)
        from tools.export_file import run_export  # PyTorch takes seconds to import

        print(run_export(options))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = FlagParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help=".pth or .safetensors, published or our own")
    parser.add_argument("target", type=Path, help="output file, .onnx or .pt2, or a new folder")
    parser.add_argument("--format", choices=("transformers",), help="of a folder (files: their suffix tells)")
    parser.add_argument(
        "--backend",
        choices=sorted(SCAN_BACKENDS),
        help="backend of the scan in a .pt2 file (default: the fastest available; portable runs everywhere)",
    )
    parser.add_argument(
        "--onnx_kernel",
        action="store_true",
        help="compute an .onnx file with the C++ kernels, whose library is put beside it",
    )
    parser.add_argument(
        "--tolerance", type=positive, default=1e-4, help="largest allowed difference of a logit (default: 1e-4)"
    )
    add_card_arguments(parser.add_argument_group("names of classes and reading, and the model card of a folder"))
    return parser.parse_args(arguments)


def check_request(options: argparse.Namespace) -> None:
    """Check all that can be checked without PyTorch; raise as `tools.export_checks`."""
    checkpoint, target = options.checkpoint, options.target
    if options.format != "transformers":
        check_file_export(checkpoint, target, backend=options.backend, onnx_kernel=options.onnx_kernel)
        in_vain = [f"--{name}" for name in CARD_FLAGS if getattr(options, name)]
        if in_vain:
            raise ValueError(
                f"{', '.join(in_vain)}: of the model card of a folder; omit, or export one with --format transformers"
            )
        return
    if options.onnx_kernel:
        raise ValueError("--onnx_kernel is for .onnx files, not for --format transformers")
    if options.backend:
        raise ValueError("--backend is for .pt2 files, not for --format transformers")
    check_transformers_export(checkpoint, target)


if __name__ == "__main__":
    raise SystemExit(main())
