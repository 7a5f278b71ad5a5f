"""Attentive pooling: a learned query reads all tokens, as in the frozen evaluations of V-JEPA (arXiv 2404.08471)."""

import math

from timm.layers import AttentionPoolLatent, LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

HEADS = 16  # of attention, or as many as divide the width


class AttentivePooler(nn.Module):
    """Blocks of self-attention, then cross-attention of one learned query followed by an MLP.

    Args:
        width: Of the tokens.
        depth: Number of blocks, including that of the query.
    """

    def __init__(self, width: int, depth: int):
        super().__init__()
        heads = math.gcd(width, HEADS)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(depth - 1)))
        self.query = AttentionPoolLatent(width, num_heads=heads, norm_layer=LayerNorm)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (b, length, width) to features (b, width)."""
        return self.query(self.blocks(tokens))
