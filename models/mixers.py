"""The mixers that a model's blocks can be built of, by name.

A mixer is a module from (batch, length, width) to the same shape. It is made with the width and the keywords that
`Mamba` takes, and says of itself what the model's tools ask:
    flops(tokens)      a `MixerFlops`: the operations of its forward pass over one sequence
    misfit(names)      why weights of these names, without the block's prefix, are not its own; None where they are
"""

from torch import nn

from mamba.mamba_ssm.modules.mamba_simple import Mamba

MIXERS: dict[str, type[nn.Module]] = {"mamba": Mamba}
