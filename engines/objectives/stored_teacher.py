"""A teacher whose outputs were stored: the losses between them and a student."""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from datasets.teacher_outputs import TeacherOutputs
from engines.objectives.base import Unregistered
from models.initialisation import LINEAR_STD


class StoredTeacher(nn.Module):
    """The losses of a student that learns from a teacher's logits or features.

    A loss is the mean over the teacher's views, but for a constant:

    - soft: T^2 KL(teacher || student) of probabilities at temperature T (Hinton et al., arXiv 1503.02531);
    - hard: cross entropy with the class that is most probable on average (Touvron et al., arXiv 2012.12877);
    - feature: 2 - 2 cos(teacher, projection of the student's class token).

    Their gradients are linear in the stored rows, so the mean over views is taken once, and mixed clips have mixed
    rows.

    Args:
        width: of the student's features.
        outputs: of the teacher, for the records of the training list.
        temperature: T of the soft loss.
    """

    def __init__(self, width: int, outputs: TeacherOutputs, temperature: float = 1.0):
        super().__init__()
        self.losses, self.temperature = outputs.losses, temperature
        rows = {name: _rows(name, outputs, temperature) for name in outputs.losses}
        self.rows = Unregistered(nn.ParameterDict(rows))
        if outputs.features is not None:
            self.proj = nn.Linear(width, outputs.features.shape[-1])
            trunc_normal_(self.proj.weight, std=LINEAR_STD)
            nn.init.zeros_(self.proj.bias)

    def targets(self, batch: dict, device: torch.device) -> dict[str, Tensor]:
        """Return the teacher's rows (N, width) for the clips of a batch, by loss."""
        stored: Any = self.rows.module
        return {name: rows[batch["indices"]].to(device, non_blocking=True) for name, rows in stored.items()}

    def forward(self, batch: dict, tokens: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """Compute the losses of tokens (N, tokens, width) and logits (N, classes) of prepared clips, by name."""
        losses = {}
        for name in self.losses:
            wanted = batch[name]
            if name == "feature":
                own = F.normalize(self.proj(tokens[:, 0]).float(), dim=-1)
                losses[name] = 2 - 2 * (own * wanted).sum(-1).mean()
            elif name == "hard":
                losses[name] = F.cross_entropy(logits.float(), wanted)
            else:
                own = (logits.float() / self.temperature).log_softmax(-1)
                losses[name] = self.temperature**2 * F.kl_div(own, wanted, reduction="batchmean")
        return losses


def _rows(loss: str, outputs: TeacherOutputs, temperature: float) -> Tensor:
    """Return the teacher's mean over views (records, width) that a loss compares with."""
    if loss == "feature":
        return F.normalize(torch.from_numpy(outputs.features), dim=-1).mean(1)
    logits = torch.from_numpy(outputs.logits)
    if loss == "soft":
        return (logits / temperature).softmax(-1).mean(1)
    best = logits.softmax(-1).mean(1).argmax(-1)
    return F.one_hot(best, logits.shape[-1]).float()
