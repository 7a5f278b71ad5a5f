"""The scans of a mixer with their gates: all that makes each of them a fixed linear map of its tokens.

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
from mamba.mamba_ssm.ops.causal_conv1d import causal_conv1d
from mamba.mamba_ssm.ops.selective_scan import bidirectional_scan
from mamba.mamba_ssm.ops.selective_scan.reference import scan_source


class Scan(NamedTuple):
    """One direction of a mixer; every tensor in the order of the tokens, whichever way the scan runs.

    `scan._replace(masked=False)`, `D=None`, `z=None` and the like ask what the map would be without a part.
    """

    u: Tensor
    """tokens that are scanned, (batch, length, dim)."""
    d: Tensor
    """step sizes, after bias and softplus, (batch, length, dim)."""
    A: Tensor
    """decay rates, negative, (dim, state)."""
    B: Tensor
    """how a token enters the state, (batch, length, state)."""
    C: Tensor
    """how a token reads the state, (batch, length, state)."""
    D: Tensor | None
    """skip, (dim)."""
    z: Tensor | None
    """gate before its SiLU, (batch, length, dim)."""
    elemental_residual: bool
    masked: bool
    backward: bool
    """whether the scan runs from the last token to the first."""


def scans_of(mixer: Mamba, hidden_states: Tensor) -> tuple[Scan, Scan]:
    """The forward and the backward scan that `mixer` runs on `hidden_states` (batch, length, d_model).

    The mixer's output is its output projection of the sum of what the two scans give. Gradients flow back from the
    scans' `u` alone, and along a linear path: the gates are held, and the factor by which SiLU scales the convolution.
    """
    x, z = mixer.in_proj(hidden_states).chunk(2, dim=-1)
    z = z.detach()
    forward = _scan(mixer, x, z, "", mixer.A_log, masked=False)
    if mixer.bimamba_type == "v1":
        decay = -torch.exp(mixer.A_b_log.detach().float())
        return forward, forward._replace(A=decay, masked=mixer.masked_backward, backward=True)
    flipped = _scan(mixer, x.flip(1), z.flip(1), "_b", mixer.A_b_log, masked=mixer.masked_backward)
    in_order = {name: getattr(flipped, name).flip(1) for name in ("u", "d", "B", "C", "z")}
    return forward, flipped._replace(**in_order, backward=True)


def _scan(mixer: Mamba, x: Tensor, z: Tensor, suffix: str, log_decay: Tensor, masked: bool) -> Scan:
    """The scan that runs along x and z as they lie, with the projections whose names end in `suffix`."""
    convolution = getattr(mixer, f"conv1d{suffix}")
    weight = convolution.weight.squeeze(1)
    convolved = causal_conv1d(x, weight, convolution.bias, silu=False, backend=mixer.backend)
    convolved = convolved * torch.sigmoid(convolved).detach()
    with torch.no_grad():
        state = log_decay.shape[-1]
        projected = getattr(mixer, f"x_proj{suffix}")(convolved)
        step, B, C = projected.split([mixer.dt_rank, state, state], dim=-1)
        return Scan(
            u=scan_source(x, convolved, mixer.scan_input),
            d=F.softplus(getattr(mixer, f"dt_proj{suffix}")(step)),
            A=-torch.exp(log_decay.float()),
            B=B,
            C=C,
            D=getattr(mixer, f"D{suffix}").float(),
            z=z,
            elemental_residual=mixer.elemental_residual,
            masked=masked,
            backward=False,
        )


def apply_scan(scan: Scan) -> Tensor:
    """What the scan gives, by the operator itself: (batch, length, dim)."""
    forward, backward = (None, scan.A) if scan.backward else (scan.A, None)
    B, C = scan.B.unsqueeze(2), scan.C.unsqueeze(2)
    return bidirectional_scan(
        scan.u, scan.d, forward, backward, B, C, scan.D, scan.z, delta_softplus=False,
        elemental_residual=scan.elemental_residual, masked=scan.masked, masked_backward=scan.masked,
    )  # fmt: skip


@contextmanager
def recorded_mixers(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Within the block, every pass through `model` notes what its mixers read and gave.

    Yields:
        {"inputs": [...], "outputs": [...]}, tensors (batch, length, d_model), the layers in order.
    """
    record: dict[str, list[Tensor]] = {"inputs": [], "outputs": []}

    def note(mixer: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
        record["inputs"].append(arguments[0])
        record["outputs"].append(output)

    handles = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, Mamba)]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def scans_of_model(model: nn.Module, clips: Tensor) -> list[tuple[Scan, Scan]]:
    """The forward and backward scan of every layer of `model` on `clips`, without gradients."""
    with torch.no_grad(), recorded_mixers(model) as record:
        model(clips)
        mixers = [module for module in model.modules() if isinstance(module, Mamba)]
        return [scans_of(mixer, hidden) for mixer, hidden in zip(mixers, record["inputs"], strict=True)]
