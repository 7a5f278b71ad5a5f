"""Backend "cuda": the stock kernels of an installed mamba-ssm, and causal-conv1d's for the convolution.

The stock scan starts from a zero state and reads every token. Two identities, exact with their gradients, give the
method's scan from it (its step after softplus is d):
    residual   prepend a token with d = 1, B = 1 and the first input u_0; drop its output
    mask       y_t - d_t u_t <B_t, C_t> for t > 0, and 0 for t = 0
Softplus, skip and gate stay outside, and the stock kernel is run in float32: what the mask subtracts must have been
rounded no coarser than what it is subtracted from. Gradients are written out, since autograd is off inside operators.
"""

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mamba.mamba_ssm.ops.selective_scan.stock_packages import CONVOLUTION_MODULE, SCAN_MODULE, load_extension

NAME = "cuda"
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class StockScan(Protocol):
    """A scan from a zero state with d already a step: (batch, dim, length), B and C (batch, groups, state, length)."""

    def forward(self, u: Tensor, d: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Any]:
        """(y (batch, dim, length), what `backward` needs)."""

    def backward(
        self, grad_y: Tensor, u: Tensor, d: Tensor, A: Tensor, B: Tensor, C: Tensor, saved: Any
    ) -> tuple[Tensor, ...]:
        """Gradients of (u, d, A, B, C)."""


class ExtensionScan:
    """mamba-ssm's compiled scan, called below its Python interface: (u, d, A, B, C, D, z, bias, softplus)."""

    def __init__(self, module: Any):
        self.module = module

    def forward(self, u: Tensor, d: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        """The scan, and its states every 2048 tokens."""
        out, states, *_ = self.module.fwd(u, d, A, B, C, None, None, None, False)
        return out, states

    def backward(self, grad_y, u, d, A, B, C, saved) -> tuple[Tensor, ...]:
        """Gradients of (u, d, A, B, C)."""
        return tuple(
            self.module.bwd(u, d, A, B, C, None, None, None, grad_y.contiguous(), saved, None, None, False, False)[:5]
        )


def unavailable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend cannot serve `device` and `dtype`, with what to do; None if it can."""
    if device.type != "cuda":
        return "it needs an NVIDIA GPU"
    if dtype not in DTYPES:
        return "it computes in float32 and takes float32, bfloat16 and float16"
    fault = load_extension(SCAN_MODULE)[1]
    return None if fault is None else str(fault)


def state_shape(batch: int, length: int, dim: int, state: int, directions: int) -> tuple[int, ...]:
    """Shape of what forward saves for backward: nothing, the backward pass runs the scan again."""
    return (0,)


class Direction(NamedTuple):
    """One direction, channels first and time in its own order: inputs as the stock scan takes them, and switches."""

    u: Tensor
    d: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    elemental_residual: bool
    masked: bool

    def extended(self) -> tuple[Tensor, ...]:
        """(u, d, A, B, C) with the virtual first token where the residual asks for it."""
        u, d, A, B, C = self[:5]
        if self.elemental_residual:
            u = torch.cat([u[..., :1], u], -1)
            d = torch.cat([torch.ones_like(d[..., :1]), d], -1)
            B = torch.cat([torch.ones_like(B[..., :1]), B], -1)
            C = torch.cat([C[..., :1], C], -1)
        return u.contiguous(), d.contiguous(), A.contiguous(), B.contiguous(), C.contiguous()

    def own_reads(self) -> Tensor:
        """<B_t, C_t> of every channel, (batch, dim, length)."""
        products = (self.B * self.C).sum(2)
        return products.repeat_interleave(self.u.shape[1] // self.B.shape[1], dim=1)


def direction_forward(stock: StockScan, direction: Direction) -> tuple[Tensor, Any]:
    """(<C_t, read_t> (batch, dim, length), what the stock scan saved)."""
    y, saved = stock.forward(*direction.extended())
    if direction.elemental_residual:
        y = y[..., 1:]
    if direction.masked:
        y = y - direction.d * direction.u * direction.own_reads()
        y = torch.cat([torch.zeros_like(y[..., :1]), y[..., 1:]], -1)
    return y, saved


def direction_backward(stock: StockScan, grad_y: Tensor, direction: Direction, saved: Any) -> tuple[Tensor, ...]:
    """Gradients of (u, d, A, B, C)."""
    u, d, _, B, C = direction[:5]
    if direction.masked:
        grad_y = torch.cat([torch.zeros_like(grad_y[..., :1]), grad_y[..., 1:]], -1)
    extended_grad = grad_y
    if direction.elemental_residual:
        extended_grad = torch.cat([torch.zeros_like(grad_y[..., :1]), grad_y], -1)
    grad_u, grad_d, grad_A, grad_B, grad_C = stock.backward(extended_grad, *direction.extended(), saved)
    if direction.elemental_residual:
        first, grad_u = grad_u[..., :1], grad_u[..., 1:]
        grad_u = torch.cat([grad_u[..., :1] + first, grad_u[..., 1:]], -1)
        grad_d, grad_B, grad_C = grad_d[..., 1:], grad_B[..., 1:], grad_C[..., 1:]
    if direction.masked:
        reads = direction.own_reads()
        batch, groups, _, length = B.shape
        grad_reads = (grad_y * d * u).reshape(batch, groups, -1, length).sum(2).unsqueeze(2)
        grad_u, grad_d = grad_u - grad_y * d * reads, grad_d - grad_y * u * reads
        grad_B, grad_C = grad_B - grad_reads * C, grad_C - grad_reads * B
    return grad_u, grad_d, grad_A, grad_B, grad_C


def _compute(tensor: Tensor | None) -> Tensor | None:
    """Float32, or float64 as it is, which only the tests of the identities use."""
    return tensor if tensor is None or tensor.dtype == torch.float64 else tensor.float()


def _directions(u, d, A, A_b, B, C, elemental_residual, masked, masked_backward) -> list[tuple[bool, Direction]]:
    """The directions to run, as (flipped, direction), from channels-last inputs."""
    u, d = u.transpose(1, 2), d.transpose(1, 2)
    B, C = B.permute(0, 2, 3, 1), C.permute(0, 2, 3, 1)
    directions = []
    if A is not None:
        directions.append((False, Direction(u, d, A, B, C, elemental_residual, masked)))
    if A_b is not None:
        u, d, B, C = (t.flip(-1) for t in (u, d, B, C))
        directions.append((True, Direction(u, d, A_b, B, C, elemental_residual, masked_backward)))
    return directions


def _step_size(raw: Tensor, delta_softplus: bool) -> Tensor:
    return F.softplus(raw) if delta_softplus else raw


def scan_forward(
    stock: StockScan, u, delta, A, A_b, B, C, D, z, delta_bias,
    delta_softplus, elemental_residual, masked, masked_backward,
) -> Tensor:  # fmt: skip
    """`bidirectional_scan` by `stock`; arguments as there."""
    dtype = u.dtype
    u, delta, A, A_b, B, C, D, z, delta_bias = map(_compute, (u, delta, A, A_b, B, C, D, z, delta_bias))
    d = _step_size(delta if delta_bias is None else delta + delta_bias, delta_softplus)
    total = 0.0
    for flipped, direction in _directions(u, d, A, A_b, B, C, elemental_residual, masked, masked_backward):
        y, _ = direction_forward(stock, direction)
        y = (y.flip(-1) if flipped else y).transpose(1, 2)
        total = total + (y if D is None else y + D * u)
    out = total if z is None else total * F.silu(z)
    return out.to(dtype).contiguous()


def scan_backward(
    stock: StockScan, grad_out, u, delta, A, A_b, B, C, D, z, delta_bias,
    delta_softplus, elemental_residual, masked, masked_backward,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of (u, delta, A, A_b, B, C, D, z, delta_bias), None where the input is None."""
    dtypes = [None if t is None else t.dtype for t in (u, delta, A, A_b, B, C, D, z, delta_bias)]
    grad_out, u, delta, A, A_b, B, C, D, z, delta_bias = map(
        _compute, (grad_out, u, delta, A, A_b, B, C, D, z, delta_bias)
    )
    raw = delta if delta_bias is None else delta + delta_bias
    d = _step_size(raw, delta_softplus)
    grad_y = grad_out if z is None else grad_out * F.silu(z)
    directions = _directions(u, d, A, A_b, B, C, elemental_residual, masked, masked_backward)
    skip = 0.0 if D is None else len(directions) * D
    total, grad_u, grad_d, grad_B, grad_C = skip * u, skip * grad_y, 0.0, 0.0, 0.0
    grad_A: dict[bool, Tensor] = {}
    for flipped, direction in directions:
        y, saved = direction_forward(stock, direction)
        gradient = grad_y.transpose(1, 2)
        grads = direction_backward(stock, gradient.flip(-1) if flipped else gradient, direction, saved)
        grad_A[flipped] = grads[2]
        y, gu, gd, gB, gC = (t.flip(-1) if flipped else t for t in (y, *grads[:2], *grads[3:]))
        total, grad_u, grad_d = total + y.transpose(1, 2), grad_u + gu.transpose(1, 2), grad_d + gd.transpose(1, 2)
        grad_B, grad_C = grad_B + gB.permute(0, 3, 1, 2), grad_C + gC.permute(0, 3, 1, 2)
    gate = None if z is None else torch.sigmoid(z)
    grad_z = None if z is None else grad_out * total * gate * (1 + z * (1 - gate))
    grad_D = None if D is None else len(directions) * (grad_y * u).sum((0, 1))
    grad_delta = grad_d * torch.sigmoid(raw) if delta_softplus else grad_d
    grad_bias = None if delta_bias is None else grad_delta.sum((0, 1))
    grads = (grad_u, grad_delta, grad_A.get(False), grad_A.get(True), grad_B, grad_C, grad_D, grad_z, grad_bias)
    return tuple(None if g is None else g.to(t).contiguous() for g, t in zip(grads, dtypes, strict=True))


def _stock() -> ExtensionScan:
    module, fault = load_extension(SCAN_MODULE)
    if module is None:
        raise RuntimeError(f"backend {NAME!r}: {fault}")
    return ExtensionScan(module)


def forward(u, delta, A, A_b, B, C, D, z, delta_bias, *flags) -> tuple[Tensor, Tensor]:
    """`bidirectional_scan` without autograd; see there for shapes. Returns (out, empty)."""
    out = scan_forward(_stock(), u, delta, A, A_b, B, C, D, z, delta_bias, *flags)
    return out, u.new_empty(0, dtype=torch.float32)


def backward(grad_out, u, delta, A, A_b, B, C, D, z, delta_bias, states, *flags) -> tuple[Tensor | None, ...]:
    """Gradients of (u, delta, A, A_b, B, C, D, z, delta_bias), None where the input is None."""
    return scan_backward(_stock(), grad_out, u, delta, A, A_b, B, C, D, z, delta_bias, *flags)


def _convolution(x: Tensor, width: int) -> Any:
    """causal-conv1d's extension where it takes x (batch, length, dim) and this many taps, else None."""
    taken = x.dtype in DTYPES and width in (2, 3, 4) and x.stride(2) == 1
    if not taken or x.stride(0) % 8 or x.stride(1) % 8:
        return None
    return load_extension(CONVOLUTION_MODULE)[0]


def causal_conv1d_forward(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """The short convolution without autograd, x (batch, length, dim), by causal-conv1d or else by PyTorch's."""
    extension = _convolution(x, weight.shape[1])
    if extension is None:
        out = _convolve(x, weight, bias)
        return (F.silu(out) if silu else out).to(x.dtype)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    extension.causal_conv1d_fwd(x.transpose(1, 2), weight, bias, None, None, out.transpose(1, 2), None, silu)
    return out


def causal_conv1d_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of (x, weight, bias)."""
    extension = _convolution(x, weight.shape[1])
    if extension is None:
        return _convolve_backward(grad_out, x, weight, bias, silu)
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=x.device)
    offset = weight.new_zeros(weight.shape[0]) if bias is None else bias
    grad_bias = torch.zeros(offset.shape, dtype=torch.float32, device=x.device)
    first = [t.transpose(1, 2) for t in (x, grad_out.contiguous(), grad_x)]
    extension.causal_conv1d_bwd(
        first[0], weight, offset, first[1], None, None, None, first[2], grad_weight, grad_bias, None, silu
    )
    return grad_x, grad_weight.to(weight.dtype), None if bias is None else grad_bias.to(bias.dtype)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution before SiLU in float32, (batch, length, dim)."""
    x, weight, bias = map(_compute, (x, weight, bias))
    width, length = weight.shape[1], x.shape[1]
    padded = F.pad(x, (0, 0, width - 1, 0))
    out = sum(padded[:, k : k + length] * weight[:, k] for k in range(width))
    return (out if bias is None else out + bias).contiguous()


def _convolve_backward(grad_out, x, weight, bias, silu) -> tuple[Tensor, Tensor, Tensor | None]:
    width, length = weight.shape[1], x.shape[1]
    grad = _compute(grad_out)
    if silu:
        out = _convolve(x, weight, bias)
        gate = torch.sigmoid(out)
        grad = grad * gate * (1 + out * (1 - gate))
    padded, later = F.pad(_compute(x), (0, 0, width - 1, 0)), F.pad(grad, (0, 0, 0, width - 1))
    grad_x = sum(later[:, width - 1 - k : width - 1 - k + length] * _compute(weight)[:, k] for k in range(width))
    grad_weight = torch.stack([(grad * padded[:, k : k + length]).sum((0, 1)) for k in range(width)], dim=1)
    grad_bias = None if bias is None else grad.sum((0, 1)).to(bias.dtype)
    return grad_x.to(x.dtype).contiguous(), grad_weight.to(weight.dtype), grad_bias
