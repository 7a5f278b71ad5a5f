"""Initial weights as the published models were started from (VideoMamba's and Mamba's scheme)."""

import math

import torch.nn as nn
from timm.layers import trunc_normal_

DT_INITS = ("mamba", "published")
LINEAR_STD = 0.02


def initialise(model: nn.Module, depth: int, dt_init: str) -> None:
    """Initialise every linear layer of the model, and rescale the output projections by 1 / sqrt(depth).

    Linear weights are truncated normal (0.02), their biases 0; convolutions keep PyTorch's default. The output
    projections are Kaiming-uniform divided by sqrt(depth), so that the residual stream does not grow with the depth.

    Args:
        model: whose mixers call their output projection `out_proj` and that of the step `dt_proj`.
        depth: number of blocks.
        dt_init: "published" also zeroes the bias of the step's projection, so that every step starts at softplus(0) =
            0.69, as every published weight did; "mamba" keeps Mamba's log-uniform steps from 0.001 to 0.1.

    Raises:
        ValueError: there is no such `dt_init`.
    """
    if dt_init not in DT_INITS:
        raise ValueError(f"dt_init must be one of {DT_INITS}, got {dt_init!r}")
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        leaf = name.rpartition(".")[2]
        if leaf == "out_proj":
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            module.weight.data.div_(math.sqrt(depth))
        else:
            trunc_normal_(module.weight, std=LINEAR_STD)
        keeps_steps = dt_init == "mamba" and leaf.startswith("dt_proj")
        if module.bias is not None and not keeps_steps:
            nn.init.zeros_(module.bias)
