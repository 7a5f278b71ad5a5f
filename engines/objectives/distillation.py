"""Distillation: a classifier also learns from a teacher, which runs beside it or whose outputs were stored.

VideoMamba trains its middle model on ImageNet by self-distillation (arXiv 2403.06977, section 3.3): cross entropy plus
the mean over all tokens of 2 - 2 cos(student's token, teacher's token), where the teacher is a smaller, frozen model
of the family, and a linear layer after the last norm projects the student's tokens to its width. That is
`TokenDistance`; `StoredTeacher` has the losses of stored outputs.
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
    """Classification plus the losses of a teacher.

    Evaluation is that of the student as a classifier; the teacher is not used.

    Args:
        model: the student.
        num_classes: see `Classification`.
        settings: see `Classification`.
        teacher: the losses. `targets(batch, device)` returns what it needs of a batch, and `forward` takes the
            prepared batch, the student's tokens (N, tokens, width) and logits (N, classes) and returns losses by name.
        weight: weight of the teacher's losses.
        label_weight: weight of the cross entropy.
        options: further arguments of `Classification`.
    """

    def __init__(
        self,
        model: VideoMambaPro,
        num_classes: int,
        settings: LossSettings | None = None,
        *,
        teacher: nn.Module,
        weight: float = 1.0,
        label_weight: float = 1.0,
        **options,
    ):
        super().__init__(model, num_classes, settings, **options)
        self.weight, self.label_weight = weight, label_weight
        self.distillation: Any = teacher

    def further_targets(self, batch: dict, device: torch.device) -> dict[str, Tensor]:
        """Return the teacher's outputs for the clips of a batch."""
        return self.distillation.targets(batch, device)

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Compute the loss and its terms, the cross entropy and the losses of the teacher."""
        model: Any = self.model
        tokens = model.forward_tokens(batch["clips"])
        logits = model.forward_head(model.pool(tokens))
        cross_entropy = self.loss(logits, batch["targets"])
        losses = self.distillation(batch, tokens, logits)
        total = self.label_weight * cross_entropy + self.weight * torch.stack(list(losses.values())).sum()
        terms = {"cross_entropy": cross_entropy, **losses}
        return {"loss": total} | {name: term.detach() for name, term in terms.items()}


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

    def targets(self, batch: dict, device: torch.device) -> dict[str, Tensor]:
        """Return nothing: the teacher sees the clips themselves."""
        return {}

    def forward(self, batch: dict, tokens: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """Return the distance between the student's tokens (N, tokens, width) and the teacher's of the same clips."""
        clips = batch["clips"]
        teacher: Any = self.teacher.module.to(clips.device)
        with torch.no_grad():
            wanted = teacher.forward_tokens(clips)
        return {"distance": token_distance(self.proj(tokens), wanted)}


def token_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean over all tokens (batch, tokens, width) of 2 - 2 cos(student, teacher)."""
    return 2 - 2 * F.cosine_similarity(student.float(), teacher.float(), dim=-1).mean()
