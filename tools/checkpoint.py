"""Describe or convert a checkpoint, or make a folder of it as on the Hugging Face hub.

    python -m tools.checkpoint inspect FILE
    python -m tools.checkpoint convert SRC DST.safetensors   only the weights, in a format that cannot contain code
    python -m tools.checkpoint convert SRC DST.pth [--ema]   without the optimizer; --ema: the EMA weights
    python -m tools.checkpoint hub FILE DIR                  config.json, model.safetensors and a model card

All published variants can be read: any wrapper and prefix, images or videos, .pth (weights only) or .safetensors.
Converted files contain plain tensor names, the model configuration, and the flags of the run that wrote the source; a
.safetensors file also contains a digest of everything.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.files import require_weights
from common.flag_parser import FlagParser
from common.terminal import escape_output
from tools.export_checks import check_folder
from tools.hub_arguments import add_hub_arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    escape_output()
    parser = FlagParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    inspecting = commands.add_parser("inspect", help="describe a file and show how to test it")
    inspecting.add_argument("file", type=Path)
    converting = commands.add_parser("convert", help="write only the weights")
    converting.add_argument("file", type=Path, metavar="source")
    converting.add_argument("target", type=Path)
    converting.add_argument("--ema", action="store_true", help="use the EMA of the weights")
    add_hub_arguments(commands.add_parser("hub", help="write a folder as on the Hugging Face hub"))
    options = parser.parse_args(arguments)
    try:
        if options.command == "hub":
            check_folder(options.file, options.target)
        else:
            require_weights(options.file)
        print(_run(options))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> str:
    """Run a command and return what it reports. The imports take seconds."""
    from tools.checkpoint_file import convert, inspect
    from tools.hub_folder import write_hub_folder

    if options.command == "inspect":
        return inspect(options.file)
    if options.command == "hub":
        return write_hub_folder(options)
    count = convert(options.file, options.target, ema=options.ema)
    return f"{options.target}: {count} tensors, {options.target.stat().st_size / 2**20:.1f} MiB"


if __name__ == "__main__":
    raise SystemExit(main())
