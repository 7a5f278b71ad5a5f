"""Register the scan as PyTorch operators with fake kernels and autograd, for torch.compile, export and DDP.

The public function `bidirectional_scan` checks shapes and chooses the backend. A backend has the functions `forward`,
`backward` and `state_shape`, which the operator `videomambapro::bidirectional_scan` and its backward call, or a single
function `scan` that autograd differentiates.
"""

import functools
import logging

import torch
from torch import Tensor

from mamba.mamba_ssm.ops.selective_scan.dispatch import BACKENDS, REFERENCE, choose_backend

logger = logging.getLogger(__name__)


def bidirectional_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor | None,
    A_b: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    *,
    delta_softplus: bool = True,
    elemental_residual: bool = True,
    masked: bool = False,
    masked_backward: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Compute the gated sum of the forward scan with A and the time-flipped scan with A_b, channels last.

    out_t = silu(z_t) * sum over directions of (<C_t, read_t> + D u_t), where h_t = exp(d_t A) h_{t-1} + d_t B_t u_t, d
    = softplus(delta + delta_bias) and read_t = h_t, or exp(d_t A) h_{t-1} in a masked direction (0 at its first
    token). With the elemental residual, each direction starts from its own first input, broadcast over the state,
    instead of 0.

    Args:
        u: Input, (batch, length, dim); its type is the output's type. Only the last dimension must be contiguous.
        delta: Step size before bias and softplus, (batch, length, dim).
        A: (dim, state) of the forward scan; None omits this direction. Complex A uses the reference backend.
        A_b: (dim, state) of the backward scan; None omits this direction.
        B: (batch, length, groups, state), or (batch, length, state) for one group; channel i uses group
            i // (dim / groups). Complex if A is.
        C: As B.
        D: Skip, (dim), added once per direction.
        z: Gate, (batch, length, dim).
        delta_bias: (dim).
        delta_softplus: Whether the step size is softplus(delta + delta_bias) or delta + delta_bias.
        elemental_residual: Whether each direction starts from its first input.
        masked: Whether a token's own input is hidden from the forward scan.
        masked_backward: Whether a token's own input is hidden from the backward scan.
        backend: A name in `available_backends()`; None selects one automatically (see `dispatch`).

    Returns:
        out: (batch, length, dim), u's type, computed in float32 (float64 for float64 input).

    Raises:
        ValueError: Shapes or types do not match, or the backend is unknown.
        BackendUnavailableError: The backend cannot run here.
    """
    B, C = (matrix.unsqueeze(2) if matrix.dim() == 3 else matrix for matrix in (B, C))
    _check_shapes(u, delta, A, A_b, B, C, D, z, delta_bias)
    flags = (delta_softplus, elemental_residual, masked, masked_backward)
    if any(a is not None and a.is_complex() for a in (A, A_b)):
        _log_complex_once()
        backend = REFERENCE
    name = choose_backend(backend, u.device, u.dtype)
    if hasattr(BACKENDS[name], "scan"):
        return BACKENDS[name].scan(u, delta, A, A_b, B, C, D, z, delta_bias, *flags)
    delta, B, C = (t.to(u.dtype) for t in (delta, B, C))
    z = None if z is None else z.to(u.dtype)
    A, A_b, D, delta_bias = (None if t is None else t.to(_compute_dtype(u)) for t in (A, A_b, D, delta_bias))
    inputs = (u, delta, A, A_b, B, C, D, z, delta_bias)
    differentiated = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    return _scan(*inputs, *flags, name, differentiated)[0]


@functools.cache
def _log_complex_once() -> None:
    logger.warning("complex A: using the reference loop over tokens, because the fast backends support only real A")


def _compute_dtype(u: Tensor) -> torch.dtype:
    return torch.float64 if u.dtype == torch.float64 else torch.float32


@torch.library.custom_op("videomambapro::bidirectional_scan", mutates_args=())
def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor | None,
    A_b: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    elemental_residual: bool,
    masked: bool,
    masked_backward: bool,
    backend: str,
    keep_states: bool,
) -> tuple[Tensor, Tensor]:
    module = BACKENDS[backend]
    arguments = (u, delta, A, A_b, B, C, D, z, delta_bias, delta_softplus, elemental_residual, masked, masked_backward)
    if keep_states:
        return module.forward(*arguments)
    no_states = u.new_empty(0, dtype=_compute_dtype(u))
    if hasattr(module, "forward_only"):
        return module.forward_only(*arguments), no_states
    return module.forward(*arguments)[0], no_states


@_scan.register_fake
def _scan_fake(u, delta, A, A_b, *others):
    backend, keep_states = others[-2:]
    batch, length, dim = u.shape
    directions = [a for a in (A, A_b) if a is not None]
    shape = BACKENDS[backend].state_shape(batch, length, dim, directions[0].shape[-1], len(directions), u.device.type)
    return u.new_empty(u.shape), u.new_empty(shape if keep_states else 0, dtype=_compute_dtype(u))


@torch.library.custom_op("videomambapro::bidirectional_scan_backward", mutates_args=())
def _scan_backward(
    grad_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor | None,
    A_b: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    states: Tensor,
    delta_softplus: bool,
    elemental_residual: bool,
    masked: bool,
    masked_backward: bool,
    backend: str,
) -> list[Tensor]:
    flags = (delta_softplus, elemental_residual, masked, masked_backward)
    grads = BACKENDS[backend].backward(grad_out, u, delta, A, A_b, B, C, D, z, delta_bias, states, *flags)
    return [u.new_empty(0) if grad is None else grad for grad in grads]


@_scan_backward.register_fake
def _scan_backward_fake(grad_out, *inputs_states_flags):
    *inputs, _states, _softplus, _residual, _masked, _masked_backward, _backend = inputs_states_flags
    return [grad_out.new_empty(0) if t is None else t.new_empty(t.shape) for t in inputs]


def _save_for_backward(ctx, inputs, output):
    *tensors, delta_softplus, elemental_residual, masked, masked_backward, backend, _keep_states = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.flags = (delta_softplus, elemental_residual, masked, masked_backward)
    ctx.backend = backend
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad_out, _grad_states):
    *tensors, states = ctx.saved_tensors
    grads = _scan_backward(grad_out, *tensors, states, *ctx.flags, ctx.backend)
    kept = [grad if t is not None else None for t, grad in zip(tensors, grads, strict=True)]
    return *kept, *(None for _ in ctx.flags), None, None


_scan.register_autograd(_differentiate, setup_context=_save_for_backward)


@torch.library.custom_op("videomambapro::scan_onto_input", mutates_args=("u",))
def scan_onto_input(
    u: Tensor,
    delta: Tensor,
    A: Tensor | None,
    A_b: Tensor | None,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    elemental_residual: bool,
    masked: bool,
    masked_backward: bool,
    backend: str,
) -> None:
    """Compute `bidirectional_scan` without autograd and write the result over u; B and C have groups.

    The backend is the name of one that has `forward_onto_input`; it requires u's type and contiguous channels.

    Raises:
        ValueError: Shapes or types do not match, elements of u overlap, or another argument is in the same storage.
    """
    _check_shapes(u, delta, A, A_b, B, C, D, z, delta_bias)
    _check_own_memory(u, delta=delta, A=A, A_b=A_b, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
    arguments = (u, delta, A, A_b, B, C, D, z, delta_bias, delta_softplus, elemental_residual, masked, masked_backward)
    BACKENDS[backend].forward_onto_input(*arguments)


@scan_onto_input.register_fake
def _scan_onto_input_fake(*_) -> None:
    pass


def _check_own_memory(u: Tensor, **others: Tensor | None) -> None:
    """Raise a ValueError if overwriting u might change another argument, or changes an element of u twice."""
    reach = 1  # elements from the first to the last one of the dimensions looked at
    for stride, size in sorted((stride, size) for stride, size in zip(u.stride(), u.shape, strict=True) if size > 1):
        if stride < reach:
            raise ValueError(f"u is overwritten, and its elements overlap (strides {u.stride()}); pass a copy")
        reach += stride * (size - 1)
    storage = u.untyped_storage().data_ptr()
    for name, other in others.items():
        if storage and other is not None and other.untyped_storage().data_ptr() == storage:
            raise ValueError(f"u is overwritten, and {name} is in the same memory; pass a copy of one of them")


def _check_shapes(u, delta, A, A_b, B, C, D, z, delta_bias) -> None:
    if u.dim() != 3 or u.shape[1] == 0:
        raise ValueError(f"u must be (batch, length >= 1, dim), got {tuple(u.shape)}")
    batch, length, dim = u.shape
    directions = [a for a in (A, A_b) if a is not None]
    if not directions:
        raise ValueError("at least one of A (forward scan) and A_b (backward scan) must be given")
    state = directions[0].shape[-1]
    expected = [("delta", delta, u.shape), ("z", z, u.shape), ("D", D, (dim,)), ("delta_bias", delta_bias, (dim,))]
    expected += [("A", A, (dim, state)), ("A_b", A_b, (dim, state))]
    for name, tensor, shape in expected:
        if tensor is not None and tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(tensor.shape)}")
    for name, tensor in (("B", B), ("C", C)):
        fits = tensor.dim() == 4 and tensor.shape[:2] == (batch, length) and tensor.shape[3] == state
        if not fits or tensor.shape[2] == 0 or dim % tensor.shape[2]:
            raise ValueError(
                f"{name} must be ({batch}, {length}, groups, {state}) with groups dividing {dim}, "
                f"got {tuple(tensor.shape)}"
            )
    if B.shape[2] != C.shape[2]:
        raise ValueError(f"B and C must have the same number of groups, got {B.shape[2]} and {C.shape[2]}")
