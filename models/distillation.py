"""The frozen teacher of self-distillation: its flags, and how it is built from its file."""

import argparse
import logging
from pathlib import Path

from common.flag_types import non_negative
from models.build import build_described
from models.checkpoint import load_checkpoint
from models.describe import describe_checkpoint
from models.videomambapro import VideoMambaPro

logger = logging.getLogger(__name__)


def add_distillation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a run that distils."""
    group = parser.add_argument_group("self-distillation")
    group.add_argument(
        "--teacher", default="", metavar="FILE", help="checkpoint of a smaller model whose tokens are learned too"
    )
    group.add_argument(
        "--distill_weight",
        type=non_negative,
        default=1.0,
        help="weight of that loss beside cross entropy (default: 1)",
    )


def load_teacher(
    path: str | Path, *, input_size: int, num_frames: int, tubelet_size: int, backend: str | None
) -> VideoMambaPro:
    """Build the model of a checkpoint, whose size and type the file tells, for clips of the student.

    Args:
        path: checkpoint of a registered size.
        input_size: side of a frame in pixels.
        num_frames: of a clip.
        tubelet_size: frames of a tubelet.
        backend: of the scan; None for the fastest available.
    Raises:
        FileNotFoundError, CheckpointError: the file cannot be read, or is of no registered size.
    """
    facts = describe_checkpoint(path)
    teacher = build_described(
        facts, img_size=input_size, num_frames=num_frames, tubelet_size=tubelet_size, backend=backend
    )
    load_checkpoint(teacher, Path(path))
    logger.info("distilling from the tokens of %s (%s)", path, facts.model)
    return teacher
