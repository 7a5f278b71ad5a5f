"""Self-distillation: a classifier also learns to give the tokens that a smaller, frozen model of the family gives.

VideoMamba trains its middle model on ImageNet so (arXiv 2403.06977, section 3.3): cross entropy + the mean over all
tokens of 2 - 2 cos(student's token, teacher's token), the student's brought to the teacher's width by a linear layer
behind its last norm.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from engines.objectives.base import Unregistered
from engines.objectives.classification import Classification
from engines.objectives.mixing import LossSettings
from models.initialisation import LINEAR_STD
from models.videomambapro import VideoMambaPro


class Distillation(Classification):
    """Classification plus the distance between the student's tokens and those of a frozen teacher.

    A test judges the student as a classifier; the teacher has no part in it.

    Args:
        model: the student.
        num_classes, settings, options: see `Classification`.
        teacher: gives tokens (batch, tokens, width) of the student's clips; its width may be another.
        weight: of the distance, beside cross entropy.
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
        """Compute the loss, and apart from each other the cross entropy and the distance that it is the sum of."""
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
    """The linear layer from the student's width to the teacher's, and the distance behind it.

    Args:
        width: of the student's tokens. teacher: frozen here, and not registered.
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
    """Mean over all tokens of 2 - 2 cos between (batch, tokens, width) and the same; 0 where all point one way."""
    return 2 - 2 * F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()
