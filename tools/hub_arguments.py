"""Arguments of the tools that make a folder of a checkpoint, without PyTorch."""

import argparse
from pathlib import Path
from typing import Any


def add_hub_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `tools.hub_folder.write_hub_folder`."""
    parser.add_argument("file", type=Path, help="checkpoint of a classifier, .pth or .safetensors")
    parser.add_argument("target", type=Path, help="folder to write, new or empty")
    add_card_arguments(parser)


def add_card_arguments(parser: Any) -> None:
    """Add the arguments of `tools.hub_folder.prepare_card` to a parser or one of its groups."""
    parser.add_argument("--results", type=Path, help="results.json of a test (default: the one beside the checkpoint)")
    parser.add_argument("--label_names", default="", help="file with a name per class (default: those in the file)")
    parser.add_argument("--recipe", default="", help="recipe of sampling and views (default: those in the file)")
    parser.add_argument("--name", default="", help="name of the model in the card (default: that of the network)")
    parser.add_argument("--data", default="", help="what it was tested on (default: the name of the list)")
    parser.add_argument("--license", default="", help="licence of the weights (default: that of this repository)")
