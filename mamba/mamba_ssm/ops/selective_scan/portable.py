"""Backend "portable": the bidirectional scan in plain PyTorch, for all devices and for float64.

Symbols as in `reference`: u input, d = softplus(delta + bias) step size, A, B, C, D state space, z gate, h state.

One direction is the linear recurrence h_t = a_t h_{t-1} + x_t with a_t = exp(d_t A) and x_t = d_t B_t u_t. Segments of
the sequence bound the memory, and each is split into about sqrt(length) chunks, which are processed together, so that
the Python loop is short and every iteration works on a large tensor. The backward pass recomputes a segment from its
initial state. Time and memory are linear in the length.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mamba.mamba_ssm.ops.selective_scan.reference import in_compute_type, step_size

NAME = "portable"

# Elements of the (batch, segment, dim, state) tensors: 4 MiB each in float32, so that a segment stays in a CPU's
# caches, and elsewhere 64 MiB, so that few launches compute much.
SEGMENT_ELEMENTS = 1 << 20
SEGMENT_ELEMENTS_GPU = 1 << 24
MIN_SEGMENT = 16


class ScanFlags(NamedTuple):
    """The switches of `bidirectional_scan`, in the order of the backends' arguments."""

    delta_softplus: bool
    elemental_residual: bool
    masked: bool
    masked_backward: bool


def unavailable_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None: plain PyTorch supports every device and type."""
    return None


def segment_length(batch: int, length: int, dim: int, state: int, device_type: str) -> int:
    """Return the tokens per segment, such that (batch, segment, dim, state) suits the device."""
    elements = SEGMENT_ELEMENTS if device_type == "cpu" else SEGMENT_ELEMENTS_GPU
    return max(MIN_SEGMENT, min(length, elements // max(1, batch * dim * state)))


def state_shape(
    batch: int, length: int, dim: int, state: int, directions: int, device_type: str = "cpu"
) -> tuple[int, ...]:
    """Return the shape of the saved states: (directions, segments, batch, dim, state)."""
    segments = math.ceil(length / segment_length(batch, length, dim, state, device_type))
    return (directions, segments, batch, dim, state)


def linear_recurrence(decay: Tensor, drive: Tensor, initial: Tensor) -> Tensor:
    """Compute all states of h_t = decay_t h_{t-1} + drive_t, h_{-1} = initial.

    Args:
        decay: Factors, (batch, length, dim, state).
        drive: Summands, (batch, length, dim, state).
        initial: State before the first token, (batch, dim, state).

    Returns:
        h: (batch, length, dim, state).
    """
    batch, length, dim, state = drive.shape
    steps = max(1, math.isqrt(length))
    chunks = math.ceil(length / steps)
    padding = chunks * steps - length
    if padding:
        decay = F.pad(decay, (0, 0, 0, 0, 0, padding), value=1.0)
        drive = F.pad(drive, (0, 0, 0, 0, 0, padding))
    shape = (batch, chunks, steps, dim, state)
    decay = decay.reshape(shape)
    local = drive.reshape(shape).clone()
    reach = decay.clone()
    for t in range(1, steps):
        local[:, :, t].addcmul_(decay[:, :, t], local[:, :, t - 1])
        reach[:, :, t].mul_(reach[:, :, t - 1])
    carried = [initial]
    for c in range(chunks - 1):
        carried.append(torch.addcmul(local[:, c, -1], reach[:, c, -1], carried[-1]))
    local.addcmul_(reach, torch.stack(carried, dim=1).unsqueeze(2))
    return local.reshape(batch, chunks * steps, dim, state)[:, :length]


class _Segment(NamedTuple):
    """Intermediate results of one segment: decay a, drive x, states before and after, B and C over channels."""

    decay: Tensor
    drive: Tensor
    previous: Tensor
    states: Tensor
    B: Tensor
    C: Tensor


def _over_channels(matrix: Tensor, dim: int) -> Tensor:
    """Expand (batch, length, groups, state) so that it broadcasts against (batch, length, dim, state)."""
    groups = matrix.shape[2]
    return matrix if groups in (1, dim) else matrix.repeat_interleave(dim // groups, dim=2)


def _run_segment(u: Tensor, d: Tensor, A: Tensor, B: Tensor, C: Tensor, initial: Tensor) -> _Segment:
    dim = u.shape[-1]
    B, C = _over_channels(B, dim), _over_channels(C, dim)
    decay = torch.exp(d.unsqueeze(-1) * A)
    drive = (d * u).unsqueeze(-1) * B
    states = linear_recurrence(decay, drive, initial)
    previous = torch.cat([initial.unsqueeze(1), states[:, :-1]], dim=1)
    return _Segment(decay, drive, previous, states, B, C)


def _read(segment: _Segment, masked: bool, first: bool) -> Tensor:
    """Return what C reads: h_t, or a_t h_{t-1} with the mask (0 at the first token); (batch, segment, dim, state)."""
    if not masked:
        return segment.states
    read = segment.decay * segment.previous
    if first:
        read[:, 0] = 0.0
    return read


def _initial_state(u: Tensor, state: int, elemental_residual: bool) -> Tensor:
    first = u[:, 0].unsqueeze(-1).expand(-1, -1, state)
    return first.clone() if elemental_residual else torch.zeros_like(first)


def _direction_forward(u, d, A, B, C, elemental_residual: bool, masked: bool) -> tuple[Tensor, Tensor]:
    """Compute <C_t, h_t> of one direction, for inputs in its order, and the states at the segments' starts."""
    batch, length, dim = u.shape
    step = segment_length(batch, length, dim, A.shape[-1], u.device.type)
    state = _initial_state(u, A.shape[-1], elemental_residual)
    outputs, starts = [], []
    for begin in range(0, length, step):
        part = slice(begin, begin + step)
        starts.append(state)
        segment = _run_segment(u[:, part], d[:, part], A, B[:, part], C[:, part], state)
        outputs.append((_read(segment, masked, begin == 0) * segment.C).sum(-1))
        state = segment.states[:, -1]
    return torch.cat(outputs, dim=1), torch.stack(starts)


class _DirectionGradients(NamedTuple):
    u: Tensor
    d: Tensor
    A: Tensor
    B: Tensor
    C: Tensor


def _to_groups(gradient: Tensor, groups: int) -> Tensor:
    """Sum a (batch, length, dim, state) gradient over the channels that share a group's B or C."""
    batch, length, dim, state = gradient.shape
    return gradient.reshape(batch, length, groups, dim // groups, state).sum(3)


def _direction_backward(
    grad_y, u, d, A, B, C, starts, elemental_residual: bool, masked: bool
) -> tuple[Tensor, _DirectionGradients]:
    """Recompute the output of a direction (for the gate's gradient) and compute the gradients of its inputs.

    mu_t, the adjoint of the carried part a_t h_{t-1}, satisfies mu_t = grad_y_t C_t + a_{t+1} mu_{t+1}. nu_t, the
    adjoint of the drive x_t, equals mu_t, or mu_t - grad_y_t C_t if the mask hides the token's own input.
    """
    batch, length, dim = u.shape
    groups = B.shape[2]
    step = segment_length(batch, length, dim, A.shape[-1], u.device.type)
    begins = range(0, length, step)
    parts: list[tuple[Tensor, ...]] = []
    grad_A = torch.zeros_like(A)
    inflow = torch.zeros_like(starts[0])
    for index in reversed(range(len(begins))):
        part = slice(begins[index], begins[index] + step)
        u_, d_, gy = u[:, part], d[:, part], grad_y[:, part].unsqueeze(-1)
        segment = _run_segment(u_, d_, A, B[:, part], C[:, part], starts[index])
        read = _read(segment, masked, index == 0)
        grad_read = gy * segment.C
        if masked and index == 0:
            grad_read[:, 0] = 0.0
        decay_after = torch.cat([torch.ones_like(segment.decay[:, :1]), segment.decay[:, 1:].flip(1)], dim=1)
        mu = linear_recurrence(decay_after, grad_read.flip(1), inflow).flip(1)
        nu = mu - grad_read if masked else mu
        inflow = segment.decay[:, 0] * mu[:, 0]
        grad_exponent = mu * segment.decay * segment.previous
        grad_input = (nu * segment.B).sum(-1)
        grad_A += torch.einsum("bldn,bld->dn", grad_exponent, d_)
        parts.append(
            (
                (read * segment.C).sum(-1),
                grad_input * d_,
                (grad_exponent * A).sum(-1) + grad_input * u_,
                _to_groups(nu * (d_ * u_).unsqueeze(-1), groups),
                _to_groups(gy * read, groups),
            )
        )
    y, grad_u, grad_d, grad_B, grad_C = (torch.cat(pieces, dim=1) for pieces in zip(*reversed(parts), strict=True))
    if elemental_residual:
        grad_u[:, 0] += inflow.sum(-1)
    return y, _DirectionGradients(grad_u, grad_d, grad_A, grad_B, grad_C)


def _directions(A: Tensor | None, A_b: Tensor | None, flags: ScanFlags) -> list[tuple[Tensor, bool, bool]]:
    """Return the directions to run, as (A, flipped, masked)."""
    both = [(A, False, flags.masked), (A_b, True, flags.masked_backward)]
    return [(matrix, flipped, masked) for matrix, flipped, masked in both if matrix is not None]


def forward(
    u, delta, A, A_b, B, C, D, z, delta_bias, delta_softplus, elemental_residual, masked, masked_backward
) -> tuple[Tensor, Tensor]:
    """Compute `bidirectional_scan` (see there for shapes) without autograd; return (out, states for `backward`)."""
    flags = ScanFlags(delta_softplus, elemental_residual, masked, masked_backward)
    dtype = u.dtype
    tensors = (u, delta, A, A_b, B, C, D, z, delta_bias)
    u, delta, A, A_b, B, C, D, z, delta_bias = map(in_compute_type, tensors)
    d = step_size(delta, delta_bias, delta_softplus)
    total: Any = 0.0  # a tensor after the first direction
    saved = []
    for A_one, flipped, hidden in _directions(A, A_b, flags):
        u_, d_, B_, C_ = (t.flip(1) if flipped else t for t in (u, d, B, C))
        y, starts = _direction_forward(u_, d_, A_one, B_, C_, elemental_residual, hidden)
        y = y.flip(1) if flipped else y
        total = total + (y if D is None else y + D * u)
        saved.append(starts)
    out = total if z is None else total * F.silu(z)
    return out.to(dtype).contiguous(), torch.stack(saved)


def backward(grad_out: Tensor, *inputs_states_flags) -> tuple[Tensor | None, ...]:
    """Compute the gradients of (u, delta, A, A_b, B, C, D, z, delta_bias), None for inputs that are None."""
    *tensors, states, delta_softplus, elemental_residual, masked, masked_backward = inputs_states_flags
    flags = ScanFlags(delta_softplus, elemental_residual, masked, masked_backward)
    dtypes = [None if t is None else t.dtype for t in tensors]
    grad_out, u, delta, A, A_b, B, C, D, z, delta_bias = map(in_compute_type, (grad_out, *tensors))
    d = step_size(delta, delta_bias, delta_softplus)
    grad_y = grad_out if z is None else grad_out * F.silu(z)
    sums: tuple[Any, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)  # tensors after the first direction
    total, grad_u, grad_d, grad_B, grad_C = sums
    grad_A: dict[bool, Tensor] = {}
    directions = _directions(A, A_b, flags)
    for (A_one, flipped, hidden), starts in zip(directions, states, strict=True):
        gy, u_, d_, B_, C_ = (t.flip(1) if flipped else t for t in (grad_y, u, d, B, C))
        y, grads = _direction_backward(gy, u_, d_, A_one, B_, C_, starts, elemental_residual, hidden)
        y, gu, gd, gB, gC = (t.flip(1) if flipped else t for t in (y, grads.u, grads.d, grads.B, grads.C))
        total, grad_u, grad_d, grad_B, grad_C = total + y, grad_u + gu, grad_d + gd, grad_B + gB, grad_C + gC
        grad_A[flipped] = grads.A
    grad_D = grad_z = None
    if D is not None:
        total = total + len(directions) * D * u
        grad_u = grad_u + len(directions) * D * grad_y
        grad_D = len(directions) * (grad_y * u).sum((0, 1))
    if z is not None:
        gate = torch.sigmoid(z)
        grad_z = grad_out * total * gate * (1 + z * (1 - gate))
    raw = delta if delta_bias is None else delta + delta_bias
    grad_delta = grad_d * torch.sigmoid(raw) if delta_softplus else grad_d
    grad_bias = None if delta_bias is None else grad_delta.sum((0, 1))
    grads = (grad_u, grad_delta, grad_A.get(False), grad_A.get(True), grad_B, grad_C, grad_D, grad_z, grad_bias)
    return tuple(None if g is None else g.to(dtype) for g, dtype in zip(grads, dtypes, strict=True))
