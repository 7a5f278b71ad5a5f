"""Self-distillation: a model also learns to give the tokens that a smaller, frozen model of the family gives.

VideoMamba trains its middle model on ImageNet so (arXiv 2403.06977, section 3.3): cross entropy + the mean over all
tokens of 2 - 2 cos(student's token, teacher's token), the student's brought to the teacher's width by a linear layer
behind its last norm.
"""

import argparse
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from models.build import build_described
from models.checkpoint import load_checkpoint
from models.describe import describe_checkpoint
from models.initialisation import LINEAR_STD
from models.videomambapro import VideoMambaPro

logger = logging.getLogger(__name__)


def add_distillation_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `add_teacher` reads."""
    group = parser.add_argument_group("self-distillation")
    group.add_argument(
        "--teacher", default="", metavar="FILE", help="checkpoint of a smaller model whose tokens are learned too"
    )
    group.add_argument(
        "--distill_weight", type=float, default=1.0, help="weight of that loss beside cross entropy (default: 1)"
    )


def token_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all tokens of 2 - 2 cos between (batch, tokens, width) and the same; 0 where all point one way."""
    return 2 - 2 * F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()


class TokenDistillation(nn.Module):
    """A frozen teacher and the linear layer from the student's width to its own.

    The teacher is no submodule: it is neither saved, nor averaged, nor sent to other processes.

    Args:
        teacher: gives tokens for the student's clips. width: of the student's tokens.
        weight: of the distance. The distance's gradient joins that of the logits' loss, which an update divides by
            the batches it accumulates; `batches` is their number.
    """

    def __init__(self, teacher: VideoMambaPro, width: int, weight: float = 1.0, batches: int = 1):
        super().__init__()
        self.proj = nn.Linear(width, teacher.embed_dim)
        trunc_normal_(self.proj.weight, std=LINEAR_STD)
        nn.init.zeros_(self.proj.bias)
        self.scale = weight / batches
        self._teacher = _Unregistered(teacher.eval().requires_grad_(False))

    def distance(self, clips: Tensor, tokens: Tensor) -> Tensor:
        """The distance between `tokens` (batch, tokens, width) of the student and the teacher's of the same clips."""
        teacher = self._teacher.module.to(clips.device)
        with torch.no_grad():
            wanted = teacher.forward_tokens(clips)
        return token_distance(self.proj(tokens), wanted)


def attach_distillation(student: VideoMambaPro, distillation: TokenDistillation) -> None:
    """Make every training step of `student` also reduce the distance to the teacher; evaluation stays as it is.

    The logits keep their values: only their gradient carries the distance's with it, so that every loop that
    differentiates a loss of the logits distils.
    """
    student.distillation = distillation
    student.norm_f.register_forward_hook(_keep_tokens)
    student.register_forward_hook(_join_distance)


def add_teacher(student: VideoMambaPro, args: argparse.Namespace) -> None:
    """Attach the teacher of --teacher, whose size and type its file tells; nothing without the flag or with --eval.

    Raises:
        FileNotFoundError, CheckpointError: the file cannot be read, or is of no registered size.
    """
    if not args.teacher or args.eval:
        return
    facts = describe_checkpoint(args.teacher)
    clips = dict(img_size=args.input_size, num_frames=args.num_frames, tubelet_size=args.tubelet_size)
    teacher = build_described(facts, **clips, backend=args.backend)
    load_checkpoint(teacher, Path(args.teacher))
    logger.info("distilling from the tokens of %s (%s), weight %g", args.teacher, facts.model, args.distill_weight)
    attach_distillation(student, TokenDistillation(teacher, student.embed_dim, args.distill_weight, args.update_freq))


def _keep_tokens(norm: nn.Module, _, tokens: Tensor) -> None:
    """Hook of the last norm: leave the tokens where `_join_distance` finds them."""
    if norm.training:
        norm.kept_tokens = tokens


def _join_distance(student: VideoMambaPro, inputs: tuple[Tensor], logits: Tensor) -> Tensor:
    """Hook of the student: in training, logits whose gradient brings the distance's along."""
    if not (student.training and torch.is_grad_enabled()):
        return logits
    # Taken away at once: a tensor of the graph would keep the module from being copied.
    tokens = student.norm_f.__dict__.pop("kept_tokens")
    distance = student.distillation.distance(inputs[0], tokens)
    return _JoinGradient.apply(logits, distance, student.distillation.scale)


class _Unregistered:
    """Holds a module without being one; a copy of the student shares it."""

    def __init__(self, module: VideoMambaPro):
        self.module = module

    def __deepcopy__(self, _) -> "_Unregistered":
        return self


class _JoinGradient(torch.autograd.Function):
    """The logits as they are; backwards, the distance receives its scale as gradient."""

    @staticmethod
    def forward(ctx, logits: Tensor, distance: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        ctx.distance = distance.shape, distance.dtype, distance.device
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx, grad_logits: Tensor) -> tuple[Tensor, Tensor, None]:
        shape, dtype, device = ctx.distance
        return grad_logits, torch.full(shape, ctx.scale, dtype=dtype, device=device), None
