"""The mixers that the blocks of a model can be built of, by the name that `--mixer` takes.

A mixer is a module from (batch, length, width) to the same shape. It is made with the width and the mixer's fields of
`ModelConfig` as keywords, and says of itself what the tools ask of it:
    flops(tokens)      a `MixerFlops`: the operations of its forward pass over one sequence
    misfit(state)      why a state dict, its names without the block's prefix, is not its own; None where it is
"""

from collections.abc import Callable

from torch import nn

from mamba.mamba_ssm.modules.mamba_simple import Mamba

MIXERS: dict[str, Callable[..., nn.Module]] = {"mamba": Mamba}
