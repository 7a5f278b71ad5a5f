"""Mixers of the blocks, by the name that `--mixer` takes.

A mixer is a module that maps (batch, length, width) to the same shape. Its constructor takes the width and, as
keywords, the mixer fields of `ModelConfig`. It has two further methods:
    flops(tokens)      returns `MixerFlops`, the FLOPs of a forward pass over one sequence
    misfit(state)      returns why a state dict (without the block's prefix) does not fit the mixer, or None if it does
"""

from collections.abc import Callable

from torch import nn

from mamba.mamba_ssm.modules.mamba_simple import Mamba

MIXERS: dict[str, Callable[..., nn.Module]] = {"mamba": Mamba}
