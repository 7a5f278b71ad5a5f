"""A mixer's scans without gradients, in slices of channels, so that a long clip needs little memory.

Step by step, a mixer holds the tokens before and after the convolution, the gate, the step sizes and the scan's output
at the same time, each twice as wide as the model. The scan computes every channel by itself, so here only a slice of
the gate and of the step sizes exists at a time, and the output replaces the scan's input.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

from mamba.mamba_ssm.ops.selective_scan.dispatch import BACKENDS
from mamba.mamba_ssm.ops.selective_scan.registration import scan_onto_input

SLICE = 192
"""Channels of a slice on few threads: half of Tiny's. Matrix products of 128 columns made Tiny 5 % slower."""

BLOCK = 32
"""Channels that a thread of the kernel processes at a time (kBlock in mamba/csrc/kernels.h)."""


class ScanInputs(NamedTuple):
    """What a branch's scans read, for all channels.

    Attributes:
        u: Convolved tokens, (batch, length, dim), which are overwritten.
        low_rank: Step sizes before their projection, (batch, length, rank).
        dt_proj: (dim, rank).
        dt_bias: (dim).
        A: (dim, state) of the forward scan, or None.
        A_b: (dim, state) of the backward scan, or None.
        B: (batch, length, state).
        C: (batch, length, state).
        D: (dim).
        flags: softplus, residual and masks, as a backend's `forward` takes them.
    """

    u: Tensor
    low_rank: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A: Tensor | None
    A_b: Tensor | None
    B: Tensor
    C: Tensor
    D: Tensor
    flags: tuple[bool, bool, bool, bool]


def computes_in_slices(x: Tensor, backend: str) -> bool:
    """Return whether `scan_in_slices` suits x: eager inference by a backend that can overwrite its input."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if peek_interpreter_stack() is not None:
        return False  # torch.func.vmap cannot batch operators that overwrite their input
    return type(x) in (Tensor, nn.Parameter) and hasattr(BACKENDS[backend], "forward_onto_input")


def scan_in_slices(branches: Sequence[ScanInputs], gate: Callable[[slice], Tensor], backend: str) -> Tensor:
    """Compute the gated sum of the scans of all branches.

    Args:
        branches: Inputs of the scans; each u is overwritten.
        gate: Computes the gate of a slice of channels, (batch, length, channels).
        backend: Name of a backend with `forward_onto_input`.

    Returns:
        (batch, length, dim): the first branch's u.
    """
    total, *others = (branch.u for branch in branches)
    for channels in _slices(total):
        z = gate(channels)
        for branch in branches:
            _scan_slice(branch, channels, z, backend)
        for other in others:
            total[..., channels] += other[..., channels]
    return total


def _slices(u: Tensor) -> Iterator[slice]:
    """Divide the channels of u (batch, length, dim) into slices that keep all threads busy."""
    batch, _, dim = u.shape
    turn = BLOCK * math.ceil(torch.get_num_threads() / max(1, batch))  # channels that the threads process together
    width = turn * math.ceil(SLICE / turn)
    for begin in range(0, dim, width):
        yield slice(begin, min(begin + width, dim))


def _scan_slice(branch: ScanInputs, channels: slice, z: Tensor, backend: str) -> None:
    delta = F.linear(branch.low_rank, branch.dt_proj[channels])  # (batch, length, channels)
    A, A_b = (None if A is None else A[channels] for A in (branch.A, branch.A_b))
    B, C = branch.B.unsqueeze(2), branch.C.unsqueeze(2)  # (batch, length, 1, state)
    u = branch.u[..., channels]
    scan_onto_input(u, delta, A, A_b, B, C, branch.D[channels], z, branch.dt_bias[channels], *branch.flags, backend)
