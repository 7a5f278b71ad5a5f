"""Masked pretraining: a student that sees a fifth of the patches learns what a teacher of images says of them.

VideoMamba's form of unmasked teacher (arXiv 2403.06977, section 3.4; arXiv 2303.16058): every visible token of the
student, after a linear decoder, must point where the teacher's token of the same patch points; nothing stands in for
hidden patches, and nothing is reconstructed. Here the tokens are those after the last norm, so that all weights are
trained; the published code takes the residual before the last mixer's output is added.
"""

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from datasets.collate import clips_on
from engines.objectives.base import Unregistered
from engines.objectives.neighbours import Neighbours
from models.arguments import MaskSettings
from models.initialisation import LINEAR_STD
from models.masks import MASKS, TokenGrid, attention_mask
from models.teachers import FamilyTeacher, VitTeacher
from models.videomambapro import VideoMambaPro


class MaskedAlignment(Neighbours):
    """A student, the decoder that aligns its visible tokens with a teacher's, and the masks.

    Args:
        model: The student; it has no head.
        teacher: Frozen.
        settings: Of the masks.

    Raises:
        ValueError: The masks need an attention that the teacher does not have.
    """

    places: Tensor
    order: Tensor

    def __init__(self, model: VideoMambaPro, teacher: VitTeacher | FamilyTeacher, settings: MaskSettings):
        super().__init__(model)
        if settings.mask_type == "attention" and not teacher.has_attention:
            others = ", ".join(MASKS)
            raise ValueError(f"--mask_type attention needs a teacher with attention; choose another one: {others}")
        self.settings = settings
        self.grid = TokenGrid(model.config.num_frames, *model.patch_embed.grid_size)
        self.teacher = Unregistered(teacher)
        tokens = 1 + self.grid.frames * self.grid.patches
        self.alignment = AlignmentDecoder(model.embed_dim, teacher.embed_dim, tokens)
        patches = torch.arange(1, tokens).view(1, self.grid.frames, -1)
        # Place in the clip of each token of the student's sequence, and the other way round.
        self.register_buffer("places", F.pad(model.line_up(patches)[0], (1, 0)), persistent=False)
        self.register_buffer("order", self.places.argsort(), persistent=False)

    def prepare(self, batch: dict, device: torch.device) -> dict:
        """Ask the teacher, draw the visible tokens, and keep the targets of those: (b, k), (b, k, c)."""
        clips = clips_on(device, batch)
        teacher: Any = self.teacher.module.to(device)
        with torch.no_grad():
            targets, importance = teacher(clips)
        ratio = self.settings.mask_ratio
        if self.settings.mask_type == "attention":
            visible = attention_mask(importance, ratio)
        else:
            visible = MASKS[self.settings.mask_type](len(clips), self.grid, ratio, device=device)
        keep = self.order[visible].sort(dim=1).values
        wanted = self.places[keep].unsqueeze(-1).expand(-1, -1, targets.shape[-1])
        return {"clips": clips, "keep": keep, "targets": targets.gather(1, wanted)}

    def forward(self, batch: dict) -> dict[str, Tensor]:
        """Compute the mean of 2 - 2 cos(student, teacher) over the visible tokens of prepared clips.

        Returns:
            the loss, and the mean cosines of the class tokens and of the patches.
        """
        model: Any = self.model
        tokens = self.alignment(model.forward_tokens(batch["clips"], batch["keep"]), self.places[batch["keep"]])
        cosines = (tokens * batch["targets"]).sum(-1)  # (b, k)
        return {
            "loss": 2 - 2 * cosines.mean(),
            "class_cosine": cosines[:, 0].mean().detach(),
            "patch_cosine": cosines[:, 1:].mean().detach(),
        }


class AlignmentDecoder(nn.Module):
    """Fixed positions, a linear layer and a norm, from the student's tokens to unit vectors of the teacher's width.

    Args:
        width: Of the student's tokens.
        outputs: Width of the teacher's tokens.
        positions: Number of tokens of a whole clip.
    """

    positions: Tensor

    def __init__(self, width: int, outputs: int, positions: int):
        super().__init__()
        self.register_buffer("positions", sinusoids(positions, width), persistent=False)
        self.head = nn.Linear(width, outputs)
        self.norm = nn.LayerNorm(outputs)
        trunc_normal_(self.head.weight, std=LINEAR_STD)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Map tokens (b, k, width) at places (b, k) of the clip to unit vectors (b, k, outputs), float32."""
        return F.normalize(self.norm(self.head(tokens + self.positions[places])).float(), dim=-1)


def sinusoids(positions: int, width: int) -> Tensor:
    """Return the table of fixed positions (positions, width): sine in even columns, cosine in odd ones.

    Columns 2 i and 2 i + 1 have the wavelength 2 pi 10000^(2 i / width) ("Attention is all you need").
    """
    columns = torch.arange(width, dtype=torch.float64)
    angles = torch.arange(positions).unsqueeze(1) / 10_000 ** (2 * (columns // 2) / width)
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos()).float()
