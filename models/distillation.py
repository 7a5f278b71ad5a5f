"""The frozen teacher of self-distillation: loading it from a checkpoint."""

import logging
from pathlib import Path

from common.frame_size import FrameSize
from models.build import build_described
from models.checkpoint import load_checkpoint
from models.describe import describe_checkpoint
from models.videomambapro import VideoMambaPro

logger = logging.getLogger(__name__)


def load_teacher(
    path: str | Path, *, input_size: FrameSize, num_frames: int, tubelet_size: int, backend: str | None
) -> VideoMambaPro:
    """Build the model of a checkpoint, with the size and type found in the file, for the clips of the student.

    Args:
        path: Checkpoint of a registered size.
        input_size: Height and width of a frame in pixels, or one number for squares.
        num_frames: Frames per clip.
        tubelet_size: Frames per tubelet.
        backend: Backend of the scan; None for the fastest available.

    Raises:
        FileNotFoundError: The file does not exist.
        CheckpointError: The file cannot be read, or has no registered size.
    """
    facts = describe_checkpoint(path)
    size = {"img_size": input_size, "num_frames": num_frames, "tubelet_size": tubelet_size}
    teacher = build_described(facts, **size, time_pool="", backend=backend)  # of a detector, the backbone
    load_checkpoint(teacher, Path(path))
    logger.info("distilling from the tokens of %s (%s)", path, facts.model)
    return teacher
