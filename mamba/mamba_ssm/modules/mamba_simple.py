"""The mixer: a bidirectional Mamba block with the parameter names of the published code.

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
from mamba.mamba_ssm.ops.mixer_branch import BranchSettings, BranchTensors, computes_at_once, mixer_branch, state_rates
from mamba.mamba_ssm.ops.mixer_slices import ScanInputs, computes_in_slices, scan_in_slices
from mamba.mamba_ssm.ops.projection import Projection, product_type
from mamba.mamba_ssm.ops.selective_scan.directions import (
    Direction,
    Order,
    in_order,
    original_order,
    scan_calls,
    scan_directions,
)
from mamba.mamba_ssm.ops.selective_scan.dispatch import choose_backend
from mamba.mamba_ssm.ops.selective_scan.reference import scan_source
from mamba.mamba_ssm.variants import BIMAMBA_TYPES

# FLOPs per token, channel and state entry, as counted by the Mamba papers: step size times A, exponential,
# step size times input times B, multiply-add of the recurrence, multiply-add of the output.
SCAN_FLOPS = 9


class MixerFlops(NamedTuple):
    """FLOPs of a mixer for one sequence; a multiply-add counts as two.

    Attributes:
        projections: FLOPs of the input and the output projection.
        inner: FLOPs of the convolutions and projections in between.
        scan: FLOPs of the scans.
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
        d_model: Width of the tokens.
        d_state: Size of the state of a channel.
        d_conv: Kernel size of the causal convolution.
        expand: Ratio of the channels of the scan to d_model.
        dt_rank: Rank of the step size projection; "auto" is d_model / 16, rounded up.
        dt_min: Lower bound of the initial step sizes, which are log-uniform in [dt_min, dt_max].
        dt_max: Upper bound of the initial step sizes.
        dt_scale: Factor of the uniform initialisation of the step size projection.
        dt_init_floor: Minimum of the initial step sizes.
        conv_bias: Whether the convolution has a bias.
        bias: Whether the input and output projections have a bias.
        bimamba_type: "v1" or "v2", as described above.
        elemental_residual: Start the state of each scan from its first input instead of 0.
        masked_backward: Hide a token's own input from the backward scan.
        scan_input: "conv": the scans read the convolved tokens (the method); "raw": as in the published code.
        backend: Backend of the scan; None selects one automatically (see `available_backends`).
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

        self.in_proj = Projection(d_model, 2 * self.d_inner, bias=bias)
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
        self.out_proj = Projection(self.d_inner, d_model, bias=bias)

    def _convolution(self, d_conv: int, bias: bool) -> nn.Conv1d:
        return nn.Conv1d(self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1, bias=bias)

    def _step_projection(self, dt_min: float, dt_max: float, dt_scale: float, dt_init_floor: float) -> nn.Linear:
        """Create the step size projection, with a bias such that softplus(bias) is log-uniform in [dt_min, dt_max]."""
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
        branches = self.branches()  # v1: one for both directions; v2: one each
        if self._infers_in_slices(hidden_states, branches):
            return self.out_proj(self._mix_in_slices(hidden_states, branches))
        xz = self.in_proj(hidden_states)  # (batch, length, 2 * d_inner)
        backend = choose_backend(self.backend, xz.device, xz.dtype)
        if computes_at_once(xz, backend) and all(self._is_standard(branch) for branch in branches):
            mixed = (self._mix_at_once(xz, branch, backend) for branch in branches)
        else:
            x, z = xz.chunk(2, dim=-1)  # (batch, length, d_inner) each
            mixed = (self._mix(x, z, branch) for branch in branches)
        return self.out_proj(reduce(torch.add, mixed))

    def _mix(self, x: Tensor, z: Tensor, branch: Branch) -> Tensor:
        """Compute everything between the input and the output projection: x and z to (batch, length, d_inner)."""
        convolved = self.convolve(x, branch)  # (batch, length, d_inner)
        delta, B, C = self.project(convolved, branch)  # x_proj, split, dt_proj: (.., d_inner), (.., d_state) twice
        u = scan_source(x, convolved, self.scan_input)  # (batch, length, d_inner)
        return self.scan(u, delta, B, C, z, branch)  # (batch, length, d_inner)

    def _is_standard(self, branch: Branch) -> bool:
        """Return whether a branch consists of this class's steps and of at most a forward and a backward scan.

        Otherwise, as in a subclass that overrides a step or adds directions, it is computed step by step.
        """
        steps = ("_mix", "convolve", "project", "scan")
        overridden = any(getattr(type(self), step) is not getattr(Mamba, step) for step in steps)
        (forward, _), *others = scan_calls(branch.directions)
        return not overridden and not others and (forward is None or forward.order is Order.FORWARD)

    def _infers_in_slices(self, hidden_states: Tensor, branches: list[Branch]) -> bool:
        """Return whether to compute by `scan_in_slices`, which would not call the input projection's hooks."""
        plain = type(self.in_proj) is Projection and not (
            self.in_proj._forward_hooks or self.in_proj._forward_pre_hooks
        )
        backend = choose_backend(self.backend, hidden_states.device, product_type(hidden_states))
        suitable = plain and self.scan_input == "conv" and computes_in_slices(hidden_states, backend)
        return suitable and all(self._is_standard(branch) for branch in branches)

    def _mix_in_slices(self, hidden_states: Tensor, branches: list[Branch]) -> Tensor:
        """Compute everything before the output projection: (batch, length, d_model) to (batch, length, d_inner)."""
        x = self.in_proj.rows(hidden_states, slice(0, self.d_inner))  # (batch, length, d_inner)
        backend = choose_backend(self.backend, x.device, x.dtype)
        inputs = [self._scan_inputs(x, branch) for branch in branches]
        del x

        def gate(channels: slice) -> Tensor:
            rows = slice(self.d_inner + channels.start, self.d_inner + channels.stop)
            return self.in_proj.rows(hidden_states, rows)  # (batch, length, channels)

        return scan_in_slices(inputs, gate, backend)

    def _scan_inputs(self, x: Tensor, branch: Branch) -> ScanInputs:
        ((forward, backward),) = scan_calls(branch.directions)
        A, A_b = (None if direction is None else direction.A for direction in (forward, backward))
        masked, masked_backward = (d is not None and d.masked for d in (forward, backward))
        convolved = self.convolve(x, branch)  # (batch, length, d_inner)
        projected = branch.x_proj(convolved)  # (batch, length, dt_rank + 2 * d_state)
        low_rank, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        step_size = (branch.dt_proj.weight, branch.dt_proj.bias.float())
        flags = (True, self.elemental_residual, masked, masked_backward)
        return ScanInputs(convolved, low_rank, *step_size, A, A_b, B, C, branch.D.float(), flags)

    def _mix_at_once(self, xz: Tensor, branch: Branch, backend: str) -> Tensor:
        """Compute `_mix` as one autograd function: xz (batch, length, 2 * d_inner) to (batch, length, d_inner)."""
        ((forward, backward),) = scan_calls(branch.directions)
        A, A_b = (None if direction is None else direction.A for direction in (forward, backward))
        settings = BranchSettings(
            backend,
            flipped=forward is None,
            raw=self.scan_input == "raw",
            elemental_residual=self.elemental_residual,
            masked=forward is not None and forward.masked,
            masked_backward=backward is not None and backward.masked,
        )
        weights = (branch.conv1d.weight, branch.conv1d.bias, branch.x_proj.weight, branch.dt_proj.weight)
        tensors = BranchTensors(xz, *weights, branch.dt_proj.bias.float(), A, A_b, branch.D.float())
        return mixer_branch(tensors, settings)

    def branches(self) -> list[Branch]:
        """Return the sets of weights between input and output projection, each with its directions."""
        A, A_b = state_rates(self.A_log, self.A_b_log, self.backend)
        forward, backward = Direction(Order.FORWARD, A), Direction(Order.BACKWARD, A_b, self.masked_backward)
        if self.bimamba_type == "v1":
            return [Branch(self.conv1d, self.x_proj, self.dt_proj, self.D, [forward, backward])]
        return [
            Branch(self.conv1d, self.x_proj, self.dt_proj, self.D, [forward]),
            Branch(self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.D_b, [backward]),
        ]

    def convolve(self, x: Tensor, branch: Branch, silu: bool = True) -> Tensor:
        """Apply the causal convolution and SiLU to x (batch, length, d_inner), in the branch's first direction."""
        order = branch.directions[0].order
        weight = branch.conv1d.weight.squeeze(1)  # (d_inner, d_conv)
        settings: dict[str, Any] = dict(silu=silu, backend=self.backend)
        if order is Order.BACKWARD:
            return causal_conv1d(x, weight, branch.conv1d.bias, reverse=True, **settings)
        y = causal_conv1d(in_order(x, order), weight, branch.conv1d.bias, **settings)
        return original_order(y, order)

    def project(self, convolved: Tensor, branch: Branch) -> tuple[Tensor, Tensor, Tensor]:
        """Compute each token's step size (before bias and softplus), B and C.

        Args:
            convolved: (batch, length, d_inner).
            branch: Weights.

        Returns:
            delta (batch, length, d_inner), B and C (batch, length, d_state).
        """
        projected = branch.x_proj(convolved)  # (batch, length, dt_rank + 2 * d_state)
        low_rank, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.linear(low_rank, branch.dt_proj.weight)  # (batch, length, d_inner)
        return delta, B, C

    def scan(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, z: Tensor, branch: Branch) -> Tensor:
        """Scan in the directions of a branch, including step size bias, softplus, skip and gate, and add the outputs.

        Args:
            u: Input, (batch, length, d_inner).
            delta: Step size before bias and softplus, (batch, length, d_inner).
            B: (batch, length, d_state).
            C: (batch, length, d_state).
            z: Gate, (batch, length, d_inner).
            branch: Weights and directions.

        Returns:
            (batch, length, d_inner).
        """
        weights = dict(D=branch.D.float(), delta_bias=branch.dt_proj.bias.float())
        switches: dict[str, Any] = dict(elemental_residual=self.elemental_residual, backend=self.backend)
        return scan_directions(u, delta, B, C, branch.directions, z=z, **weights, **switches)

    def flops(self, tokens: int) -> MixerFlops:
        """Count the FLOPs of a forward pass over one sequence of `tokens` tokens."""
        outer = self.in_proj.weight.numel() + self.out_proj.weight.numel()
        branches = self.branches()
        inner = sum(m.weight.numel() for branch in branches for m in (branch.conv1d, branch.x_proj, branch.dt_proj))
        directions = sum(len(branch.directions) for branch in branches)
        scan = scan_flops(1, tokens, self.d_inner, self.d_state, directions=directions)
        return MixerFlops(2 * tokens * outer, 2 * tokens * inner, scan)

    def misfit(self, state: Mapping[str, Tensor]) -> str | None:
        """Return why a mixer's state dict does not fit this mixer, worded to follow the file's name, or None."""
        settings = settings_of(state)
        if settings is None:
            return "has no bidirectional Mamba layers (layers.*.mixer.A_b_log is missing)"
        kind = settings["bimamba_type"]
        if kind != self.bimamba_type:
            family = {"v1": "videomambapro_*", "v2": "videomamba_* (or --bimamba_type v2)"}[kind]
            return f"is of type {kind}, the model of type {self.bimamba_type}; use --model {family}"
        return None

    def extra_repr(self) -> str:
        """Return the switches, for print(model)."""
        return (
            f"bimamba_type={self.bimamba_type}, elemental_residual={self.elemental_residual}, "
            f"masked_backward={self.masked_backward}, scan_input={self.scan_input}"
        )


def settings_of(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Infer keywords from the tensors of a mixer's state dict; None if it is not one of a bidirectional Mamba."""
    if "A_b_log" not in state:
        return None
    return {"bimamba_type": "v2" if "conv1d_b.weight" in state else "v1", "d_state": state["A_b_log"].shape[1]}


def scan_flops(batch: int, length: int, channels: int, state: int, *, directions: int) -> int:
    """Count the FLOPs of the scan: `SCAN_FLOPS` per state entry and 2 for the skip, per direction."""
    return directions * batch * length * channels * (SCAN_FLOPS * state + 2)


@register_flop_formula([torch.ops.videomambapro.bidirectional_scan, torch.ops.videomambapro.scan_onto_input])
def _scan_formula(u_shape, delta_shape, A_shape, A_b_shape, B_shape, *_, out_shape=None, **__) -> int:
    """Formula for torch.utils.flop_counter; shapes are (batch, length, channels), None for an absent direction."""
    directions = sum(shape is not None for shape in (A_shape, A_b_shape))
    batch, length, channels = u_shape
    return scan_flops(batch, length, channels, B_shape[-1], directions=directions)


def _undecayed(values: Tensor) -> nn.Parameter:
    """Create a parameter without weight decay, marked as in the Mamba code."""
    parameter = nn.Parameter(values)
    parameter._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]  (not an attribute of PyTorch)
    return parameter


def log_state_decay(d_inner: int, d_state: int) -> nn.Parameter:
    """Create A_log = log(1 .. d_state) for each channel (d_inner, d_state), S4D-real: A = -exp(A_log)."""
    return _undecayed(torch.log(torch.arange(1, d_state + 1, dtype=torch.float32)).repeat(d_inner, 1))
