"""From the command line to a model with its initial weights."""

import argparse

import timm

from models.checkpoint import LoadReport, load_checkpoint
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
