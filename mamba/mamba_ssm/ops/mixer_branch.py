"""Convolution, projections and scan of a mixer's branch as one autograd function that keeps and launches little.

A training step of a small model on a GPU is bound by the launches of its operators. Compared with those operators one
by one, this function keeps neither the convolution's output nor the step sizes for the backward pass, which computes
them again, and adds gradients up inside the matrix products. It calls the functions of a backend directly, so it is
for eager training only; torch.compile and export see the registered operators.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mamba.mamba_ssm.ops.projection import product, trains_eagerly_on_gpu, weight_gradient
from mamba.mamba_ssm.ops.selective_scan.dispatch import BACKENDS, choose_backend

ROW_BYTES = 16
"""Rows of a matrix product start at multiples of this, or the library takes a slower kernel."""


class BranchSettings(NamedTuple):
    """How a branch scans.

    Attributes:
        backend: Name of a backend with `causal_conv1d_forward` and `forward`, whose backward functions write where
            `grad_x` and `grad_z` tell them.
        flipped: Whether the convolution runs backward in time.
        raw: Whether the scan reads x instead of the convolved x.
        elemental_residual: As in `bidirectional_scan`.
        masked: As in `bidirectional_scan`.
        masked_backward: As in `bidirectional_scan`.
    """

    backend: str
    flipped: bool
    raw: bool
    elemental_residual: bool
    masked: bool
    masked_backward: bool

    @property
    def scan_flags(self) -> tuple[bool, ...]:
        """Flags of a backend's `forward`: softplus, residual and masks."""
        return (True, self.elemental_residual, self.masked, self.masked_backward)


def computes_at_once(x: Tensor, backend: str) -> bool:
    """Return whether `mixer_branch` suits x: eager training on a GPU by a backend with a convolution of its own."""
    return trains_eagerly_on_gpu(x) and hasattr(BACKENDS[backend], "causal_conv1d_forward")


def state_rates(log: Tensor, log_b: Tensor, backend: str | None) -> tuple[Tensor, ...]:
    """Compute A = -exp(A_log) of both directions, (dim, state) each, in float32.

    In eager training on a GPU it is one launch, and one in the backward pass, if the backend can do so.
    """
    alike = log.dtype == log_b.dtype != torch.float64  # the kernels know no float64
    if alike and trains_eagerly_on_gpu(log) and trains_eagerly_on_gpu(log_b):
        name = choose_backend(backend, log.device, log.dtype)
        if hasattr(BACKENDS[name], "state_rates"):
            return _StateRates.apply(name, log, log_b)  # pyright: ignore[reportReturnType]  (untyped in PyTorch)
    return -torch.exp(log.float()), -torch.exp(log_b.float())


class _StateRates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend, log, log_b):
        ctx.save_for_backward(log, log_b)
        ctx.backend = backend
        return BACKENDS[backend].state_rates(log, log_b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads):
        return None, *BACKENDS[ctx.backend].state_rates_backward(*grads, *ctx.saved_tensors)


class BranchTensors(NamedTuple):
    """Inputs of a branch.

    Attributes:
        xz: Output of the input projection, (batch, length, 2 * dim): the tokens x and the gate z.
        conv_weight: (dim, 1, width).
        conv_bias: (dim) or None.
        x_proj: (rank + 2 * state, dim).
        dt_proj: (dim, rank).
        dt_bias: (dim).
        A: (dim, state) of the forward scan, or None.
        A_b: (dim, state) of the backward scan, or None.
        D: (dim).
    """

    xz: Tensor
    conv_weight: Tensor
    conv_bias: Tensor | None
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A: Tensor | None
    A_b: Tensor | None
    D: Tensor

    @property
    def x(self) -> Tensor:
        """Tokens, (batch, length, dim)."""
        return self.xz.chunk(2, dim=-1)[0]

    @property
    def z(self) -> Tensor:
        """Gate, (batch, length, dim)."""
        return self.xz.chunk(2, dim=-1)[1]


def mixer_branch(tensors: BranchTensors, settings: BranchSettings) -> Tensor:
    """Compute the gated sum of a branch's scans: (batch, length, dim), in the type of xz."""
    return _MixerBranch.apply(settings, *tensors)  # pyright: ignore[reportReturnType]  (untyped in PyTorch)


class _MixerBranch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: BranchSettings, *tensors):
        given, module = BranchTensors(*tensors), BACKENDS[settings.backend]
        x_proj, dt_proj = _in_type_of_tokens(given)
        convolved = _convolve(given, settings)
        projected = product(convolved, x_proj)  # (batch, length, padded)
        scanned = _scan_inputs(given, convolved, projected, dt_proj, settings)
        out, states = module.forward(*scanned, *settings.scan_flags)
        ctx.save_for_backward(*tensors, x_proj, dt_proj, projected, states)
        ctx.settings = settings
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out):
        *tensors, x_proj, dt_proj, projected, states = ctx.saved_tensors
        given, settings, module = BranchTensors(*tensors), ctx.settings, BACKENDS[ctx.settings.backend]
        convolved = _convolve(given, settings)
        scanned = _scan_inputs(given, convolved, projected, dt_proj, settings)
        of_xz = given.xz.new_empty(given.xz.shape)
        of_x, of_z = of_xz.chunk(2, dim=-1)  # the kernels write into these halves, so nothing is copied together
        of_u, of_delta, of_A, of_A_b, of_B, of_C, of_D, _, of_bias = module.backward(
            grad_out, *scanned, states, *settings.scan_flags, grad_z=of_z
        )
        padding = x_proj[len(given.x_proj) :, 0].expand(*projected.shape[:2], -1)  # zeros
        parts = [product(of_delta, dt_proj.t()), of_B.flatten(2), of_C.flatten(2), padding]
        of_projected = torch.cat(parts, dim=-1)  # (batch, length, padded)
        of_x_proj = weight_gradient(of_projected, convolved, given.x_proj.dtype)[: len(given.x_proj)]
        of_dt_proj = weight_gradient(of_delta, projected[..., : dt_proj.shape[1]], given.dt_proj.dtype)
        of_convolved = product(of_projected, x_proj.t(), None if settings.raw else of_u)
        of_weight, of_conv_bias = _convolve_backward(of_convolved, of_x, given, settings)
        if settings.raw:
            of_x += of_u
        return None, *BranchTensors(of_xz, of_weight, of_conv_bias, of_x_proj, of_dt_proj, of_bias, of_A, of_A_b, of_D)


def _in_type_of_tokens(given: BranchTensors) -> tuple[Tensor, Tensor]:
    """Return x_proj, with rows of zeros up to a multiple of ROW_BYTES, and dt_proj in the type of the tokens."""
    step, (used, dim) = ROW_BYTES // given.xz.dtype.itemsize, given.x_proj.shape
    padding = _zeros(-used % step, dim, given.x_proj.dtype, given.xz.device)
    flat = given.xz.new_empty((used + len(padding)) * dim + given.dt_proj.numel())
    x_proj, dt_proj = flat[: -given.dt_proj.numel()].view(-1, dim), flat[-given.dt_proj.numel() :]
    dt_proj = dt_proj.view_as(given.dt_proj)
    # One launch for all of them.
    torch._foreach_copy_([x_proj[:used], x_proj[used:], dt_proj], [given.x_proj, padding, given.dt_proj])
    return x_proj, dt_proj


@functools.cache
def _zeros(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros(rows, columns, dtype=dtype, device=device)


def _scan_inputs(
    given: BranchTensors, convolved: Tensor, projected: Tensor, dt_proj: Tensor, settings: BranchSettings
) -> tuple[Tensor | None, ...]:
    """Return the tensors of a backend's `forward`: u, delta, A, A_b, B, C, D, z and delta_bias."""
    rank = dt_proj.shape[1]
    state = (len(given.x_proj) - rank) // 2
    low_rank, B, C = projected[..., : rank + 2 * state].split([rank, state, state], dim=-1)
    delta = product(low_rank, dt_proj)  # (batch, length, dim)
    u = given.x if settings.raw else convolved
    return u, delta, given.A, given.A_b, B.unsqueeze(2), C.unsqueeze(2), given.D, given.z, given.dt_bias


def _convolve(given: BranchTensors, settings: BranchSettings) -> Tensor:
    module = BACKENDS[settings.backend]
    x, weight = _ordered(given.x, settings), given.conv_weight.squeeze(1)
    return _ordered(module.causal_conv1d_forward(x, weight, given.conv_bias, True), settings)


def _convolve_backward(
    grad: Tensor, of_x: Tensor, given: BranchTensors, settings: BranchSettings
) -> tuple[Tensor, Tensor | None]:
    """Write the gradient of x to `of_x`; return those of conv_weight and conv_bias."""
    module = BACKENDS[settings.backend]
    grad, x = _ordered(grad, settings), _ordered(given.x, settings)
    in_order, of_weight, of_bias = module.causal_conv1d_backward(
        grad, x, given.conv_weight.squeeze(1), given.conv_bias, True, grad_x=None if settings.flipped else of_x
    )
    if settings.flipped:
        of_x.copy_(_ordered(in_order, settings))
    return of_weight.unsqueeze(1), of_bias


def _ordered(tokens: Tensor, settings: BranchSettings) -> Tensor:
    return tokens.flip(1) if settings.flipped else tokens
