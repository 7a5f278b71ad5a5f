"""From the command line, or a configuration, to a model with its initial weights."""

import argparse

import timm

from models.arguments import flagged_settings
from models.checkpoint import LoadReport, load_checkpoint
from models.describe import CheckpointFacts
from models.videomambapro import VideoMambaPro, registered_names


def build_model(args: argparse.Namespace, num_classes: int, **overrides) -> VideoMambaPro:
    """The model that the flags of `add_model_arguments` and of the data describe, with `num_classes` outputs.

    Args:
        overrides: fields of `ModelConfig` that win over the flags, such as a smaller depth to measure with.

    Raises:
        ValueError: no model of that name is registered, or its settings contradict each other.
    """
    known = registered_names()
    if args.model not in known:
        raise ValueError(f"--model {args.model!r} is not registered; known are: {', '.join(known)}")
    flags = {setting.name: getattr(args, setting.flag) for setting in flagged_settings()}
    chosen = {name: value for name, value in flags.items() if value is not None}
    return timm.create_model(args.model, **(chosen | {"num_classes": num_classes} | overrides))


def load_finetune_checkpoint(model: VideoMambaPro, args: argparse.Namespace) -> LoadReport | None:
    """Load `--finetune` where it is given, unless `--resume` brings all weights.

    With `--eval` the head must come from the file too.
    """
    if not args.finetune or args.resume:
        return None
    return load_checkpoint(
        model,
        args.finetune,
        require_head=args.eval,
        allow_random=args.allow_random,
        overridden=args.override_checkpoint,
    )


def build_described(facts: CheckpointFacts, **changes) -> VideoMambaPro:
    """The network that a file tells, with its initial weights.

    Args:
        facts: what `describe_checkpoint` found.
        changes: fields of `ModelConfig` that win, such as another number of frames or the backend.

    Raises:
        CheckpointError: neither the file nor a registered model of its size tells its switches.
    """
    facts.require_switches()
    settings = facts.network | changes
    return timm.create_model(facts.model, **settings) if facts.model else VideoMambaPro(**settings)
