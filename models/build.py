"""From the command line to a model with its initial weights."""

import argparse
from pathlib import Path

import timm

from models.checkpoint import CheckpointError, LoadReport, load_checkpoint
from models.describe import TOLD_BY_FLAGS, describe_checkpoint
from models.videomambapro import VideoMambaPro

METHOD_FLAGS = ("elemental_residual", "masked_backward", "bimamba_type", "scan_input", "dt_init", "backend")


def build_model(args: argparse.Namespace, num_classes: int, **overrides) -> VideoMambaPro:
    """The model that the flags of `add_model_arguments` and of the data describe, with `num_classes` outputs.

    `overrides` are arguments of `VideoMambaPro` that no flag sets, such as a smaller depth to measure with.

    Raises:
        ValueError: no model of that name is registered, or its arguments contradict each other.
    """
    known = timm.list_models("videomamba*")
    if args.model not in known:
        raise ValueError(f"--model {args.model!r} is not registered; known are: {', '.join(known)}")
    chosen = {name: getattr(args, name) for name in METHOD_FLAGS if getattr(args, name) is not None}
    return timm.create_model(
        args.model,
        num_classes=num_classes,
        img_size=args.input_size,
        num_frames=args.num_frames,
        tubelet_size=args.tubelet_size,
        drop_rate=args.drop,
        drop_path_rate=args.drop_path,
        fc_drop_rate=args.fc_drop_rate,
        use_checkpoint=args.use_checkpoint,
        checkpoint_num=args.checkpoint_num,
        **(chosen | overrides),
    )


def load_finetune_checkpoint(model: VideoMambaPro, args: argparse.Namespace) -> LoadReport | None:
    """Loads `--finetune` where it is given; with `--eval` the head must come from the file too."""
    if not args.finetune:
        return None
    return load_checkpoint(model, args.finetune, require_head=args.eval, allow_random=args.allow_random)


def build_from_checkpoint(path: str | Path, **overrides) -> VideoMambaPro:
    """The trained model of a file that tells by itself what it is, on the CPU.

    Args:
        path: checkpoint with a head, published or of a run of ours. overrides: arguments of `VideoMambaPro`.

    Raises:
        FileNotFoundError, CheckpointError: it cannot be read, has no head, or is of none of the registered sizes.
    """
    facts = describe_checkpoint(path)
    if facts.model is None or facts.num_classes is None:
        lacking = "a head" if facts.model else "the size of a registered model"
        raise CheckpointError(f"{path} ({facts.embed_dim} x {facts.depth}) does not have {lacking}")
    settings = {
        "num_classes": facts.num_classes,
        "num_frames": facts.num_frames or facts.tubelet_size or 1,
        "img_size": facts.input_size,
        "tubelet_size": facts.tubelet_size or 1,
        "bimamba_type": facts.bimamba_type,
    }
    settings |= {name: facts.flags[name] for name in TOLD_BY_FLAGS if facts.flags.get(name) is not None}
    model = timm.create_model(facts.model, **(settings | overrides))
    load_checkpoint(model, path, require_head=True)
    return model
