"""Self-distillation: a classifier also learns to reproduce the tokens of a smaller, frozen model of the family.

VideoMamba trains its middle model on ImageNet this way (arXiv 2403.06977, section 3.3): cross entropy plus the mean
over all tokens of 2 - 2 cos(student's token, teacher's token), where a linear layer after the last norm projects the
student's tokens to the teacher's width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from engines.loss_settings import LossSettings
from engines.objectives.base import Unregistered
from engines.objectives.classification import Classification
from models.initialisation import LINEAR_STD
from models.videomambapro import VideoMambaPro


class Distillation(Classification):
    """Classification plus the distance between the student's tokens and those of a frozen teacher.

    Evaluation is that of the student as a classifier; the teacher is not used.

    Args:
        model: the student.
        num_classes: see `Classification`.
        settings: see `Classification`.
        teacher: computes tokens (batch, tokens, width) of the student's clips; its width may differ.
        weight: weight of the distance relative to cross entropy.
        options: further arguments of `Classification`.
    """

    def __init__(
        self,
        model: VideoMambaPro,
        num_classes: int,
        settings: LossSettings | None = None,
        *,
        teacher: VideoMambaPro,
        weight: float = 1.0,
        **options,
    ):
        super().__init__(model, num_classes, settings, **options)
        self.weight = weight
        self.distillation = TokenDistance(model.embed_dim, teacher)

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Compute the loss and its two terms, the cross entropy and the distance."""
        model: Any = self.model
        tokens = model.forward_tokens(batch["clips"])
        cross_entropy = self.loss(model.forward_head(tokens[:, 0]), batch["targets"])
        distance = self.distillation(tokens, batch["clips"])
        return {
            "loss": cross_entropy + self.weight * distance,
            "cross_entropy": cross_entropy.detach(),
            "distance": distance.detach(),
        }


class TokenDistance(nn.Module):
    """A linear layer from the student's width to the teacher's, followed by the distance.

    Args:
        width: of the student's tokens.
        teacher: frozen, and not registered as a submodule.
    """

    def __init__(self, width: int, teacher: VideoMambaPro):
        super().__init__()
        self.proj = nn.Linear(width, teacher.embed_dim)
        trunc_normal_(self.proj.weight, std=LINEAR_STD)
        nn.init.zeros_(self.proj.bias)
        self.teacher = Unregistered(teacher)

    def forward(self, tokens: Tensor, clips: Tensor) -> Tensor:
        """Return the distance between `tokens` (batch, tokens, width) and the teacher's of the same clips."""
        teacher: Any = self.teacher.module.to(clips.device)
        with torch.no_grad():
            wanted = teacher.forward_tokens(clips)
        return token_distance(self.proj(tokens), wanted)


def token_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over all tokens (batch, tokens, width) of 2 - 2 cos(student, teacher)."""
    return 2 - 2 * F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()
