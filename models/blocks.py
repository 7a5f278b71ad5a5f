"""Residual block: add, normalise, mix."""

import torch
import torch.nn as nn
from timm.layers import DropPath
from torch import Tensor

from mamba.mamba_ssm.ops.layer_norm import add_norm

NORM_EPS = 1e-5


def make_norm(embed_dim: int, rms_norm: bool) -> nn.RMSNorm | nn.LayerNorm:
    """Create an RMSNorm, or a LayerNorm if `rms_norm` is False, over the last dimension with eps 1e-5."""
    norm = nn.RMSNorm if rms_norm else nn.LayerNorm
    return norm(embed_dim, eps=NORM_EPS)


class Block(nn.Module):
    """One layer, which maps a mixer output and the residual stream to those of the next layer.

    Args:
        embed_dim: Width of the tokens.
        mixer: Module that maps (batch, length, embed_dim) to the same shape.
        drop_path: Probability of dropping the previous mixer's output, per sample.
        rms_norm: Use RMSNorm instead of LayerNorm.
        backend: Backend of the addition and the norm, named like those of the scan; None selects one automatically.
    """

    def __init__(self, embed_dim: int, mixer: nn.Module, drop_path: float, rms_norm: bool, backend: str | None = None):
        super().__init__()
        self.rms_norm = rms_norm
        self.backend = backend
        self.mixer = mixer
        self.norm = make_norm(embed_dim, rms_norm)
        self.drop_path = DropPath(drop_path)

    def forward(self, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the mixer output and the residual stream (float32), both (batch, length, embed_dim)."""
        bias = self.norm.bias if isinstance(self.norm, nn.LayerNorm) else None
        kept = self.drop_path(hidden_states)
        normed, residual = add_norm(
            kept, residual, self.norm.weight, bias, NORM_EPS, self.rms_norm, backend=self.backend
        )
        return self.mixer(normed), residual


def add_to_residual(hidden_states: Tensor, residual: Tensor | None) -> Tensor:
    """Add to the residual stream in float32, whatever the mixer's type (float64 for float64)."""
    hidden_states = hidden_states.to(torch.float32) if hidden_states.dtype != torch.float64 else hidden_states
    return hidden_states if residual is None else residual + hidden_states
