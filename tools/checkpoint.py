"""Tells what a checkpoint is, and converts it.

    python -m tools.checkpoint inspect FILE
    python -m tools.checkpoint convert SRC DST.safetensors   weights alone, in a format that cannot run code
    python -m tools.checkpoint convert SRC DST.pth [--ema]   without optimiser and average; --ema takes the average

Every published form is read: any wrapper and prefix, images or videos, .pth (weights only) or .safetensors. Converted
files carry bare tensor names, and the flags of the run where one of this repository's wrote the source.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from engines.files import atomic_write
from engines.recipe import RECIPE_OF_CLASSES
from engines.terminal import escape_output
from models.checkpoint import AVERAGE, FLAGS_KEY, CheckpointError, read_checkpoint_file, unwrap_tensors
from models.describe import CheckpointFacts, describe_checkpoint

FORMATS = (".pth", ".safetensors")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    escape_output()
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
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
    rows = {
        "model": facts.model or "none of the registered sizes",
        "type": f"{facts.bimamba_type}, {'images' if facts.is_image_model else 'videos'}",
        "size": f"{facts.embed_dim} x {facts.depth}, {facts.parameters:,} parameters",
        "classes": facts.num_classes or "no head",
        "frames": facts.num_frames or "not said (an image model)",
        "resolution": facts.input_size or "not said",
        "tubelet": facts.tubelet_size or "2-D patch embedding, serves any",
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
    content = read_checkpoint_file(source)
    if ema and not isinstance(content.get(AVERAGE), dict):
        raise CheckpointError(f"{source} holds no moving average ({AVERAGE}); leave --ema out")
    tensors = unwrap_tensors({"model": content[AVERAGE]} if ema else content, source)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    flags = content.get(FLAGS_KEY)
    _write(target, tensors, flags if isinstance(flags, dict) else {})
    return len(tensors)


def _write(target: Path, tensors: dict[str, Tensor], flags: dict[str, Any]) -> None:
    if target.suffix == ".safetensors":
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, target, metadata={"format": "pt", FLAGS_KEY: json.dumps(flags)})
        return
    with atomic_write(target) as file:
        torch.save({"model": tensors} | ({FLAGS_KEY: flags} if flags else {}), file)


def _other_contents(content: dict[str, Any]) -> list[str]:
    """What a training checkpoint holds beside weights."""
    words = {"optimizer": "optimiser", AVERAGE: "moving average", "epoch": "epoch", "best_score": "best top-1"}
    found = []
    for key, word in words.items():
        value = content.get(key)
        if value is not None:
            found.append(f"{word} {value:g}" if isinstance(value, (int, float)) else word)
    return found


def _command(path: Path, facts: CheckpointFacts) -> str:
    if facts.num_classes is None:
        return "nothing: it has no head; start from it with --finetune"
    recipe = RECIPE_OF_CLASSES.get(facts.num_classes, "custom")
    if not facts.is_image_model and recipe == "imagenet":
        recipe = "custom"
    return f"bash scripts/evaluate.sh --checkpoint {path} --data_set {recipe} --data_root DIR"


if __name__ == "__main__":
    raise SystemExit(main())
