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
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.files import atomic_write
from common.flag_parser import FlagParser
from common.settings import as_typed
from common.terminal import escape_output
from datasets.lists import ListSettings
from datasets.presets import recipe_of_classes
from datasets.sampling import ViewSettings
from models.checkpoint_file import (
    EMA_KEY,
    FORMATS,
    CheckpointError,
    read_checkpoint_file,
    unwrap_tensors,
    write_weights,
)
from models.describe import CheckpointFacts, about_masked_pretraining, describe_checkpoint
from models.videomambapro import VideoMambaPro
from tools.hub_folder import add_hub_arguments, write_hub_folder

# Flags of the data that --eval takes from the file.
_IN_THE_FILE = {"nb_classes", "label_names", "num_frames", "input_size", "short_side_size"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    escape_output()
    parser = FlagParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    inspecting = commands.add_parser("inspect", help="describe a file and show how to test it")
    inspecting.add_argument("file", type=Path)
    converting = commands.add_parser("convert", help="write only the weights")
    converting.add_argument("source", type=Path)
    converting.add_argument("target", type=Path)
    converting.add_argument("--ema", action="store_true", help="use the EMA of the weights")
    add_hub_arguments(commands.add_parser("hub", help="write a folder as on the Hugging Face hub"))
    options = parser.parse_args(arguments)
    try:
        if options.command == "inspect":
            print(inspect(options.file))
        elif options.command == "hub":
            print(write_hub_folder(options))
        else:
            count = convert(options.source, options.target, ema=options.ema)
            print(f"{options.target}: {count} tensors, {options.target.stat().st_size / 2**20:.1f} MiB")
    except (CheckpointError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def inspect(path: Path) -> str:
    """Return a table that describes the checkpoint `path` and ends with the command to test it.

    Raises:
        FileNotFoundError: as `describe_checkpoint`.
        CheckpointError: as `describe_checkpoint`.
    """
    facts, content = describe_checkpoint(path), read_checkpoint_file(path)
    settings = [setting.name for setting in VideoMambaPro.config_class.settings() if setting.name != "name"]
    rows = {
        "model": facts.model or "none of the registered sizes",
        "trained on": _training(facts),
        "task": facts.flags.get("task") or "not recorded",
        **{name.replace("_", " "): as_typed(value.tolist()) for name, value in facts.beside.items()},
        "parameters": f"{facts.parameters:,}",
        **{name: as_typed(facts.config.get(name, "not recorded")) for name in settings},
        "also in the file": ", ".join(_other_contents(content)) or "nothing",
        "to test it": _command(path, facts),
    }
    width = max(map(len, rows))
    return "\n".join([str(path), *(f"  {name:<{width}}  {value}" for name, value in rows.items())])


def convert(source: Path, target: Path, *, ema: bool = False) -> int:
    """Write the weights of `source` to `target` atomically, and return the number of tensors.

    Args:
        source: a checkpoint.
        target: .pth or .safetensors.
        ema: write the EMA; otherwise the weights that the run tested.
    Raises:
        FileNotFoundError: the source does not exist.
        CheckpointError: the source cannot be read or has no EMA, or the target has another suffix.
    """
    if target.suffix not in FORMATS:
        raise CheckpointError(f"{target}: the target must be {' or '.join(FORMATS)}")
    facts, content = describe_checkpoint(source), read_checkpoint_file(source)
    if ema and not isinstance(content.get(EMA_KEY), dict):
        raise CheckpointError(f"{source} contains no EMA ({EMA_KEY}); omit --ema")
    tensors = unwrap_tensors({"model": content[EMA_KEY]} if ema else content, source)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    config = facts.config | ({"name": facts.model} if facts.model else {})
    with atomic_write(target) as file:
        write_weights(file, target.suffix, tensors, config, facts.flags)
    return len(tensors)


def _training(facts: CheckpointFacts) -> str:
    if facts.masked_pretraining:
        return f"videos: {about_masked_pretraining(facts.config['depth'] - 1)}"
    return "images" if facts.is_image_model else "videos"


def _other_contents(content: dict[str, Any]) -> list[str]:
    """Return what a training checkpoint contains in addition to weights."""
    titles = {"optimizer": "optimizer", EMA_KEY: "EMA", "epoch": "epoch", "best_score": "best score"}
    found = []
    for key, title in titles.items():
        value = content.get(key)
        if value is not None:
            found.append(f"{title} {value:g}" if isinstance(value, (int, float)) else title)
    return found


def _command(path: Path, facts: CheckpointFacts) -> str:
    if facts.num_classes is None:
        return "not possible: it has no head; fine-tune it with --finetune"
    if facts.config.get("time_pool"):
        return f"python run_action_detection.py --eval --finetune {path} --data_path DIR"
    if facts.flags.get("data_path") or facts.flags.get("test_list"):
        return _command_of_run(path, facts)
    recipe = recipe_of_classes(facts.num_classes) or "custom"
    if not facts.is_image_model and recipe == "imagenet":
        recipe = "custom"
    return f"bash scripts/evaluate.sh --checkpoint {path} --data_set {recipe} --data_root DIR"


def _command_of_run(path: Path, facts: CheckpointFacts) -> str:
    """The command that repeats the test of the run that wrote the file: its lists, sampling and views."""
    script = "run_pretrain_imagenet.py" if facts.is_image_model else "run_class_finetuning.py"
    words = ["python", script, "--eval", "--finetune", str(path)]
    for field in (*fields(ListSettings), *fields(ViewSettings)):
        value = facts.flags.get(field.name)
        # the scripts differ in the default of --data_set
        usual = value in (None, "") or (value == field.default and field.name != "data_set")
        if not usual and field.name not in _IN_THE_FILE:
            words += [f"--{field.name}", str(value)]
    return shlex.join(words)


if __name__ == "__main__":
    raise SystemExit(main())
