"""Tells what a checkpoint is, and converts it.

    python -m tools.checkpoint inspect FILE
    python -m tools.checkpoint convert SRC DST.safetensors   weights alone, in a format that cannot run code
    python -m tools.checkpoint convert SRC DST.pth [--ema]   without optimiser and average; --ema takes the average

Every published form is read: any wrapper and prefix, images or videos, .pth (weights only) or .safetensors. Converted
files carry bare tensor names, what is known of the network, and the flags of the run that wrote the source; a
.safetensors file also a digest of all of it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.files import atomic_write
from common.flag_parser import FlagParser
from common.terminal import escape_output
from datasets.presets import recipe_of_classes
from models.checkpoint_file import (
    EMA_KEY,
    FORMATS,
    CheckpointError,
    read_checkpoint_file,
    unwrap_tensors,
    write_weights,
)
from models.describe import CheckpointFacts, describe_checkpoint
from models.videomambapro import VideoMambaPro


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    escape_output()
    parser = FlagParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    inspecting = commands.add_parser("inspect", help="tell what a file is and how to test it")
    inspecting.add_argument("file", type=Path)
    converting = commands.add_parser("convert", help="write the weights alone")
    converting.add_argument("source", type=Path)
    converting.add_argument("target", type=Path)
    converting.add_argument("--ema", action="store_true", help="take the moving average of the weights")
    options = parser.parse_args(arguments)
    try:
        if options.command == "inspect":
            print(inspect(options.file))
        else:
            count = convert(options.source, options.target, ema=options.ema)
            print(f"{options.target}: {count} tensors, {options.target.stat().st_size / 2**20:.1f} MiB")
    except (CheckpointError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def inspect(path: Path) -> str:
    """A table of what the checkpoint `path` is, ending in the command that tests it.

    Raises:
        FileNotFoundError, CheckpointError: as `describe_checkpoint`.
    """
    facts, content = describe_checkpoint(path), read_checkpoint_file(path)
    settings = [setting.name for setting in VideoMambaPro.config_class.settings() if setting.name != "name"]
    rows = {
        "model": facts.model or "none of the registered sizes",
        "trained on": "images" if facts.is_image_model else "videos",
        "parameters": f"{facts.parameters:,}",
        **{name: facts.config.get(name, "not said") for name in settings},
        "also in the file": ", ".join(_other_contents(content)) or "nothing",
        "tests it": _command(path, facts),
    }
    width = max(map(len, rows))
    return "\n".join([str(path), *(f"  {name:<{width}}  {value}" for name, value in rows.items())])


def convert(source: Path, target: Path, *, ema: bool = False) -> int:
    """Write the weights of `source` to `target`, whole or not at all, and return how many tensors there are.

    Args:
        target: .pth or .safetensors. ema: take the moving average, else the weights that the run tested.
    Raises:
        FileNotFoundError, CheckpointError: the source cannot be read or has no average, or the suffix is another.
    """
    if target.suffix not in FORMATS:
        raise CheckpointError(f"{target}: the target is {' or '.join(FORMATS)}")
    facts, content = describe_checkpoint(source), read_checkpoint_file(source)
    if ema and not isinstance(content.get(EMA_KEY), dict):
        raise CheckpointError(f"{source} holds no moving average ({EMA_KEY}); leave --ema out")
    tensors = unwrap_tensors({"model": content[EMA_KEY]} if ema else content, source)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    config = facts.config | ({"name": facts.model} if facts.model else {})
    with atomic_write(target) as file:
        write_weights(file, target.suffix, tensors, config, facts.flags)
    return len(tensors)


def _other_contents(content: dict[str, Any]) -> list[str]:
    """What a training checkpoint holds beside weights."""
    words = {"optimizer": "optimiser", EMA_KEY: "moving average", "epoch": "epoch", "best_score": "best score"}
    found = []
    for key, word in words.items():
        value = content.get(key)
        if value is not None:
            found.append(f"{word} {value:g}" if isinstance(value, (int, float)) else word)
    return found


def _command(path: Path, facts: CheckpointFacts) -> str:
    if facts.num_classes is None:
        return "nothing: it has no head; start from it with --finetune"
    recipe = recipe_of_classes(facts.num_classes) or "custom"
    if not facts.is_image_model and recipe == "imagenet":
        recipe = "custom"
    return f"bash scripts/evaluate.sh --checkpoint {path} --data_set {recipe} --data_root DIR"


if __name__ == "__main__":
    raise SystemExit(main())
