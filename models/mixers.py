"""The mixers that the blocks of a model can be built of, by name.

A mixer is a module from (batch, length, width) to the same shape. It is made with the width and the keywords of
`Mamba`, and says of itself what the tools ask of it:
    flops(tokens)      a `MixerFlops`: the operations of its forward pass over one sequence
    misfit(names)      why weights of these names, without the block's prefix, are not its own; None where they are
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from mamba.mamba_ssm.modules.mamba_simple import Mamba

MIXERS: dict[str, Callable[..., nn.Module]] = {"mamba": Mamba}


def create_mixer(name: str, width: int, **settings: Any) -> nn.Module:
    """Create the mixer of that name for tokens of `width` entries; `settings` are keywords of `Mamba`.

    Raises:
        ValueError: there is no mixer of that name.
    """
    if name not in MIXERS:
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {name!r}")
    return MIXERS[name](width, **settings)
