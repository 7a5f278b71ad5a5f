"""The mixer: a bidirectional Mamba block, its parameters named as published.

Types (method of VideoMambaPro, arXiv 2406.19006 section 3, and of VideoMamba, arXiv 2403.06977):
    v1  both directions share convolution, projections and D; only A differs (VideoMambaPro)
    v2  the backward direction has its own convolution, projections and D (VideoMamba)
"""

import math
from collections.abc import Mapping
from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from mamba.mamba_ssm.ops.causal_conv1d import causal_conv1d
from mamba.mamba_ssm.ops.selective_scan.directions import Direction, Order, as_it_was, in_order, scan_directions
from mamba.mamba_ssm.ops.selective_scan.reference import scan_source

BIMAMBA_TYPES = ("v1", "v2")
# Operations per token, channel and entry of its state, as the Mamba family counts them: step times A, exponential,
# step times input times B, the recurrence's multiply-add, the reading's multiply-add.
SCAN_FLOPS = 9


class MixerFlops(NamedTuple):
    """Operations of a mixer over one sequence; a multiply-add is two.

    Attributes:
        projections: of the input and the output projection.
        inner: of the convolutions and projections between them.
        scan: of the scans.
    """

    projections: int
    inner: int
    scan: int


class Branch(NamedTuple):
    """Weights between the input and the output projection, and the directions that share them."""

    conv1d: nn.Conv1d
    x_proj: nn.Linear
    dt_proj: nn.Linear
    D: Tensor
    directions: list[Direction]


class Mamba(nn.Module):
    """Bidirectional selective scan between an input and an output projection.

    Args:
        d_model: width of the tokens.
        d_state: entries of the state of a channel.
        d_conv: taps of the causal convolution.
        expand: channels of the scan per entry of d_model.
        dt_rank: rank of the step's projection; "auto" is d_model / 16, rounded up.
        dt_min, dt_max, dt_init_floor: the step sizes at initialisation are log-uniform in [dt_min, dt_max] and at
            least the floor.
        dt_scale: factor on the uniform initialisation of the step's projection.
        conv_bias, bias: whether the convolution, and the input and output projections, have a bias.
        bimamba_type: "v1" or "v2", as described above.
        elemental_residual: whether each scan starts from its first input, or from 0.
        masked_backward: whether the backward scan does not read a token's own input.
        scan_input: "conv", the scans read the convolved tokens (the method); "raw", as the published code ran.
        backend: the scan's backend; None chooses (see `available_backends`).
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        bimamba_type: str = "v1",
        elemental_residual: bool = True,
        masked_backward: bool = True,
        scan_input: str = "conv",
        backend: str | None = None,
    ):
        super().__init__()
        if bimamba_type not in BIMAMBA_TYPES:
            raise ValueError(f"bimamba_type must be one of {BIMAMBA_TYPES}, got {bimamba_type!r}")
        self.d_model = d_model
        self.d_inner = expand * d_model
        self.d_state = d_state
        self.dt_rank = math.ceil(d_model / 16) if isinstance(dt_rank, str) else dt_rank
        self.bimamba_type = bimamba_type
        self.elemental_residual = elemental_residual
        self.masked_backward = masked_backward
        self.scan_input = scan_input
        self.backend = backend

        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias)
        self.conv1d = self._convolution(d_conv, conv_bias)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = self._step_projection(dt_min, dt_max, dt_scale, dt_init_floor)
        self.A_log = log_state_decay(self.d_inner, d_state)
        self.D = _undecayed(torch.ones(self.d_inner))
        self.A_b_log = log_state_decay(self.d_inner, d_state)
        if bimamba_type == "v2":
            self.conv1d_b = self._convolution(d_conv, conv_bias)
            self.x_proj_b = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
            self.dt_proj_b = self._step_projection(dt_min, dt_max, dt_scale, dt_init_floor)
            self.D_b = _undecayed(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias)

    def _convolution(self, d_conv: int, bias: bool) -> nn.Conv1d:
        return nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1, bias=bias)

    def _step_projection(self, dt_min: float, dt_max: float, dt_scale: float, dt_init_floor: float) -> nn.Linear:
        """The projection to the step size, its bias such that softplus(bias) is log-uniform in [dt_min, dt_max]."""
        projection = nn.Linear(self.dt_rank, self.d_inner)
        bound = self.dt_rank**-0.5 * dt_scale
        nn.init.uniform_(projection.weight, -bound, bound)
        step = torch.exp(torch.empty(self.d_inner).uniform_(math.log(dt_min), math.log(dt_max))).clamp(
            min=dt_init_floor
        )
        with torch.no_grad():
            projection.bias.copy_(step + torch.log(-torch.expm1(-step)))
        return projection

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Mix the tokens: (batch, length, d_model) to the same shape."""
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)  # (batch, length, d_inner) each
        outputs = []
        for branch in self.branches():  # v1: one, which both directions share; v2: one for each direction
            convolved = self.convolve(x, branch)  # (batch, length, d_inner)
            delta, B, C = self.project(convolved, branch)  # x_proj, split, dt_proj: (.., d_inner), (.., d_state) twice
            u = scan_source(x, convolved, self.scan_input)  # (batch, length, d_inner)
            outputs.append(self.scan(u, delta, B, C, z, branch))  # (batch, length, d_inner)
        return self.out_proj(reduce(torch.add, outputs))  # (batch, length, d_model)

    def branches(self) -> list[Branch]:
        """Return the sets of weights between the input and the output projection, each with its directions."""
        forward = Direction(Order.FORWARD, -torch.exp(self.A_log.float()))
        backward = Direction(Order.BACKWARD, -torch.exp(self.A_b_log.float()), self.masked_backward)
        if self.bimamba_type == "v1":
            return [Branch(self.conv1d, self.x_proj, self.dt_proj, self.D, [forward, backward])]
        return [
            Branch(self.conv1d, self.x_proj, self.dt_proj, self.D, [forward]),
            Branch(self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.D_b, [backward]),
        ]

    def convolve(self, x: Tensor, branch: Branch, silu: bool = True) -> Tensor:
        """Convolve x (batch, length, d_inner) along the branch's first direction, causally, with SiLU."""
        order = branch.directions[0].order
        weight = branch.conv1d.weight.squeeze(1)  # (d_inner, d_conv)
        y = causal_conv1d(in_order(x, order), weight, branch.conv1d.bias, silu=silu, backend=self.backend)
        return as_it_was(y, order)

    def project(self, convolved: Tensor, branch: Branch) -> tuple[Tensor, Tensor, Tensor]:
        """Project to what selects: each token's step before bias and softplus, B and C.

        Args:
            convolved: (batch, length, d_inner).
            branch: the weights.

        Returns:
            delta (batch, length, d_inner), B and C (batch, length, d_state).
        """
        projected = branch.x_proj(convolved)  # (batch, length, dt_rank + 2 * d_state)
        low_rank, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.linear(low_rank, branch.dt_proj.weight)  # (batch, length, d_inner)
        return delta, B, C

    def scan(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Tensor, branch: Branch) -> Tensor:
        """Scan in the branch's directions, with the step's bias and softplus, skip and gate, and add the outputs.

        Args:
            u, delta, z: (batch, length, d_inner).
            B, C: (batch, length, d_state).
            branch: the weights and directions.

        Returns:
            (batch, length, d_inner).
        """
        return scan_directions(
            u, delta, B, C, branch.directions, D=branch.D.float(), z=z, delta_bias=branch.dt_proj.bias.float(),
            elemental_residual=self.elemental_residual, backend=self.backend,
        )  # fmt: skip

    def flops(self, tokens: int) -> MixerFlops:
        """Count the operations of a forward pass over one sequence of so many tokens."""
        outer = self.in_proj.weight.numel() + self.out_proj.weight.numel()
        branches = self.branches()
        inner = sum(m.weight.numel() for branch in branches for m in (branch.conv1d, branch.x_proj, branch.dt_proj))
        directions = sum(len(branch.directions) for branch in branches)
        scan = scan_flops(1, tokens, self.d_inner, self.d_state, directions=directions)
        return MixerFlops(2 * tokens * outer, 2 * tokens * inner, scan)

    def misfit(self, state: Mapping[str, Tensor]) -> str | None:
        """Say, after the file's name, why a mixer's state dict cannot be this one's; None where it can."""
        theirs = settings_of(state)
        if theirs is None:
            return "holds no bidirectional Mamba layers (no layers.*.mixer.A_b_log)"
        kind = theirs["bimamba_type"]
        if kind != self.bimamba_type:
            family = {"v1": "videomambapro_*", "v2": "videomamba_* (or --bimamba_type v2)"}[kind]
            return f"is of type {kind}, the model of type {self.bimamba_type}; ask for --model {family}"
        return None

    def extra_repr(self) -> str:
        """The switches, for print(model)."""
        return (
            f"bimamba_type={self.bimamba_type}, elemental_residual={self.elemental_residual}, "
            f"masked_backward={self.masked_backward}, scan_input={self.scan_input}"
        )


def settings_of(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Read the keywords that tensors tell off a mixer's state dict; None where it is no bidirectional Mamba's."""
    if "A_b_log" not in state:
        return None
    return {"bimamba_type": "v2" if "conv1d_b.weight" in state else "v1", "d_state": state["A_b_log"].shape[1]}


def scan_flops(batch: int, length: int, channels: int, state: int, *, directions: int) -> int:
    """Count the scan's operations: `SCAN_FLOPS` per entry of the state and 2 for the skip, per direction."""
    return directions * batch * length * channels * (SCAN_FLOPS * state + 2)


@register_flop_formula(torch.ops.videomambapro.bidirectional_scan)
def _scan_formula(u_shape, delta_shape, A_shape, A_b_shape, B_shape, *_, out_shape=None, **__) -> int:
    """For torch.utils.flop_counter: shapes (batch, length, channels), None for a direction that is left out."""
    directions = sum(shape is not None for shape in (A_shape, A_b_shape))
    batch, length, channels = u_shape
    return scan_flops(batch, length, channels, B_shape[-1], directions=directions)


def _undecayed(values: Tensor) -> nn.Parameter:
    """A parameter that weight decay must leave alone, marked as optimisers of the Mamba family expect it."""
    parameter = nn.Parameter(values)
    parameter._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]  (a mark, not PyTorch's)
    return parameter


def log_state_decay(d_inner: int, d_state: int) -> nn.Parameter:
    """log(1 .. d_state) for every channel, S4D-real: A = -exp(A_log). (d_inner, d_state)."""
    return _undecayed(torch.log(torch.arange(1, d_state + 1, dtype=torch.float32)).repeat(d_inner, 1))
