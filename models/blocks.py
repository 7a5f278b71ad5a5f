"""The residual block around the mixer: add, normalise, mix."""

import torch
import torch.nn as nn
from timm.layers import DropPath
from torch import Tensor

from mamba.mamba_ssm.ops.layer_norm import add_norm

NORM_EPS = 1e-5


def make_norm(embed_dim: int, rms_norm: bool) -> nn.RMSNorm | nn.LayerNorm:
    """Create an RMSNorm, or a LayerNorm where `rms_norm` is False; both over the last dimension with eps 1e-5."""
    norm = nn.RMSNorm if rms_norm else nn.LayerNorm
    return norm(embed_dim, eps=NORM_EPS)


class Block(nn.Module):
    """One layer: from a mixer's output and the residual stream to the same pair one layer further.

    Args:
        embed_dim: width of the tokens.
        mixer: module from (batch, length, embed_dim) to the same shape.
        drop_path: probability of dropping the previous mixer's output from the residual stream, per sample.
        rms_norm: RMSNorm, else LayerNorm.
        backend: of the addition and the norm, as the scan's; None chooses.
    """

    def __init__(self, embed_dim: int, mixer: nn.Module, drop_path: float, rms_norm: bool, backend: str | None = None):
        super().__init__()
        self.rms_norm = rms_norm
        self.backend = backend
        self.mixer = mixer
        self.norm = make_norm(embed_dim, rms_norm)
        self.drop_path = DropPath(drop_path)

    def forward(self, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the next pair; both tensors are (batch, length, embed_dim), the residual stream is float32."""
        bias = self.norm.bias if isinstance(self.norm, nn.LayerNorm) else None
        normed, residual = add_norm(
            self.drop_path(hidden_states), residual, self.norm.weight, bias, NORM_EPS, self.rms_norm,
            backend=self.backend,
        )  # fmt: skip
        return self.mixer(normed), residual


def add_to_residual(hidden_states: Tensor, residual: Tensor | None) -> Tensor:
    """Return the residual stream after one more addition, in float32 whatever the mixer's type."""
    hidden_states = hidden_states.to(torch.float32) if hidden_states.dtype != torch.float64 else hidden_states
    return hidden_states if residual is None else residual + hidden_states
