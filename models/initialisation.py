"""Weight initialisation of the published models (the scheme of VideoMamba and Mamba)."""

import math

import torch.nn as nn
from timm.layers import trunc_normal_

from models.config import DT_INITS

LINEAR_STD = 0.02


def initialise(model: nn.Module, depth: int, dt_init: str) -> None:
    """Initialise all linear layers of a model.

    Weights are truncated normal (std 0.02) and biases 0; convolutions keep PyTorch's default. Output projections are
    Kaiming-uniform divided by sqrt(depth), so that the residual stream does not grow with the depth.

    Args:
        model: Its mixers name their output projection `out_proj` and their step size projection `dt_proj`.
        depth: Number of blocks.
        dt_init: "published" also sets the bias of the step size projection to zero, so that all step sizes start at
            softplus(0) = 0.69, as in the published training; "mamba" keeps Mamba's log-uniform step sizes from 0.001
            to 0.1.

    Raises:
        ValueError: Unknown `dt_init`.
    """
    if dt_init not in DT_INITS:
        raise ValueError(f"dt_init must be one of {DT_INITS}, got {dt_init!r}")
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or module.weight.is_meta:  # there drawing takes long and gives nothing
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
