"""Describe a checkpoint, or write its weights alone (the work of `tools.checkpoint`)."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.files import atomic_write
from common.settings import as_typed
from datasets.lists import ListSettings
from datasets.presets import recipe_of_classes
from datasets.sampling import ViewSettings
from engines.checkpoint_flags import known_sampling
from models.checkpoint_file import (
    ALIGNMENT_DECODER,
    EMA_KEY,
    FORMATS,
    TRAINING_ONLY,
    CheckpointError,
    read_checkpoint_file,
    unwrap_tensors,
    write_weights,
)
from models.describe import CheckpointFacts, about_masked_pretraining, describe_checkpoint
from models.videomambapro import VideoMambaPro

# VideoMamba's decoder stays, since it tells its masked pretraining.
_LEFT_OUT = tuple(prefix for prefix in TRAINING_ONLY if prefix != ALIGNMENT_DECODER)
# Flags of the data that --eval takes from the file.
_IN_THE_FILE = {"nb_classes", "label_names", "num_frames", "input_size", "short_side_size"}


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
    """Write the model's weights of `source` to `target` atomically, and return the number of tensors.

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
    tensors = {
        name: tensor.detach().clone().contiguous()
        for name, tensor in tensors.items()
        if not name.startswith(_LEFT_OUT)
    }
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
    quoted = shlex.quote(str(path))
    if facts.config.get("time_pool"):
        return f"python run_action_detection.py --eval --finetune {quoted} --data_path DIR"
    if known_sampling(facts):
        return _command_of_run(path, facts)
    recipe = recipe_of_classes(facts.num_classes) or "custom"
    if not facts.is_image_model and recipe == "imagenet":
        recipe = "custom"
    return f"bash scripts/evaluate.sh --checkpoint {quoted} --data_set {recipe} --data_root DIR"


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
    if not (facts.flags.get("data_path") or facts.flags.get("test_list")):  # hub folders tell no paths
        words += ["--data_path", "LISTS", "--data_root", "DIR"]
    return shlex.join(words)
