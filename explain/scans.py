"""The scans of a mixer with their gates, which define each scan as a fixed linear map of its tokens.

Symbols as in `mamba.mamba_ssm.ops.selective_scan.reference`; layouts are channels last, (batch, length, dim).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mamba.mamba_ssm.modules.mamba_simple import Mamba
from mamba.mamba_ssm.ops.selective_scan.directions import Direction, Order, scan_directions
from mamba.mamba_ssm.ops.selective_scan.reference import scan_source


class Scan(NamedTuple):
    """One direction of a mixer; all tensors are in the order of the tokens, whatever the order of the scan.

    `scan._replace(masked=False)`, `D=None` or `z=None` describe the map without one of its parts.
    """

    u: Tensor
    """Tokens that are scanned, (batch, length, dim)."""
    d: Tensor
    """Step sizes after bias and softplus, (batch, length, dim)."""
    A: Tensor
    """Decay rates, negative, (dim, state)."""
    B: Tensor
    """How a token enters the state, (batch, length, state)."""
    C: Tensor
    """How a token reads the state, (batch, length, state)."""
    D: Tensor | None
    """Skip, (dim)."""
    z: Tensor | None
    """Gate before SiLU, (batch, length, dim)."""
    elemental_residual: bool
    masked: bool
    order: Order | Tensor
    """Order of the scan, as in `Direction`."""


def scans_of(mixer: Mamba, hidden_states: Tensor) -> list[Scan]:
    """Return the scans that `mixer` runs on `hidden_states` (batch, length, d_model), in the order of its directions.

    The mixer's output is the output projection of the sum of the scans' outputs. Gradients flow back only through the
    scans' `u`, and linearly: the gates, and the factor by which SiLU scales the convolution, are detached.
    """
    x, z = mixer.in_proj(hidden_states).chunk(2, dim=-1)
    scans = []
    for branch in mixer.branches():
        convolved = mixer.convolve(x, branch, silu=False)
        convolved = convolved * torch.sigmoid(convolved).detach()
        u = scan_source(x, convolved, mixer.scan_input)
        with torch.no_grad():
            delta, B, C = mixer.project(convolved, branch)
            d = F.softplus(delta + branch.dt_proj.bias)
            shared = dict(d=d, B=B, C=C, D=branch.D.float(), z=z.detach(), elemental_residual=mixer.elemental_residual)
        scans += [
            Scan(u=u, A=A.detach(), order=order, masked=masked, **shared) for order, A, masked in branch.directions
        ]
    return scans


def apply_scan(scan: Scan) -> Tensor:
    """Compute the output of a scan with the operator of the model: (batch, length, dim)."""
    directions = [Direction(scan.order, scan.A, scan.masked)]
    switches = dict(delta_softplus=False, elemental_residual=scan.elemental_residual)
    return scan_directions(scan.u, scan.d, scan.B, scan.C, directions, D=scan.D, z=scan.z, **switches)


@contextmanager
def recorded_mixers(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Record the inputs and outputs of all mixers during forward passes in the block.

    Yields:
        {"inputs": [...], "outputs": [...]}, tensors (batch, length, d_model), in the order of the layers.
    """
    record: dict[str, list[Tensor]] = {"inputs": [], "outputs": []}

    def record_call(mixer: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        record["inputs"].append(arguments[0])
        record["outputs"].append(output)

    handles = [module.register_forward_hook(record_call) for module in model.modules() if isinstance(module, Mamba)]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def scans_of_model(model: nn.Module, clips: Tensor) -> list[list[Scan]]:
    """Return the scans of every layer of `model` on `clips`, without gradients."""
    with torch.no_grad(), recorded_mixers(model) as record:
        model(clips)
        mixers = [module for module in model.modules() if isinstance(module, Mamba)]
        return [scans_of(mixer, hidden) for mixer, hidden in zip(mixers, record["inputs"], strict=True)]
