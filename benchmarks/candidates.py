"""The functions timed by `benchmarks.scan`, each with a reference loop that computes the same.

"stock pass" and "stock kernels" run the compiled scan of an installed mamba-ssm twice, with its softplus, skip and
gate, without the two changes of the method. The pass flips the inputs and the output of its second run, as a
bidirectional block must; the kernels omit the flips, for comparison only. Both get tensors with contiguous time, the
fastest layout for that kernel; all others get channels last.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mamba.mamba_ssm.ops.selective_scan import available_backends, bidirectional_scan, stock, stock_packages
from mamba.mamba_ssm.ops.selective_scan_interface import selective_scan_ref, selective_scan_ref_sub

try:
    from mambapy.pscan import pscan
except ImportError:
    pscan = None

NAMES = ("u", "delta", "A", "A_b", "B", "C", "D", "z", "delta_bias")
LOOP, PUBLISHED = "loop reference", "published loop"
STOCK_PASS, STOCK_KERNELS = "stock pass", "stock kernels"

Inputs = dict[str, Tensor]


def make_inputs(
    batch: int, length: int, dim: int, state: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Inputs:
    """Create inputs like those of a newly initialised layer: A = -(1..state), step sizes of 0.001 to 0.1.

    `dtype` is the type of the tokens; the parameters A, A_b, D and delta_bias are always float32.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    A = -torch.arange(1.0, state + 1).repeat(dim, 1)
    steps = torch.exp(torch.empty(dim).uniform_(-6.9, -2.3, generator=generator))
    tokens = {
        "u": normal(batch, length, dim),
        "delta": 0.1 * normal(batch, length, dim),
        "B": normal(batch, length, 1, state),
        "C": normal(batch, length, 1, state),
        "z": normal(batch, length, dim),
    }
    parameters = {"A": A, "A_b": A.clone(), "D": torch.ones(dim), "delta_bias": torch.log(torch.expm1(steps))}
    inputs = {name: t.to(dtype) for name, t in tokens.items()} | parameters
    return {name: inputs[name].to(device).requires_grad_() for name in NAMES}


def moved_bytes(inputs: Inputs) -> dict[str, int]:
    """Return the minimum bytes that a forward pass, and forward and backward together, have to move.

    Forward reads each input and writes the output once. Backward reads the inputs again, because the rest of the
    network runs in between, and the output's gradient, and writes a gradient as large as each input.
    """
    read = sum(t.numel() * t.element_size() for t in inputs.values())
    out = inputs["u"].numel() * inputs["u"].element_size()
    return {"forward": read + out, "training": (read + out) + (read + out + read)}


def time_contiguous(tensor: Tensor) -> Tensor:
    """Copy a tensor (batch, length, ...) so that time is last in memory; parameters are returned unchanged."""
    if tensor.dim() < 3:
        return tensor
    moved = tensor.detach().movedim(1, -1).contiguous().movedim(-1, 1)
    return moved.requires_grad_(tensor.requires_grad)


def loop_reference(u, delta, A, A_b, B, C, D, z, delta_bias, *, changes=True, flips=True):
    """Run the two reference loops, channels first, and add their outputs.

    With `changes`, they have the elemental residual and a masked second scan, otherwise both are Mamba's scan. With
    `flips`, the second scan runs backward in time, otherwise both run forward.
    """
    u, delta, z = (t.transpose(1, 2) for t in (u, delta, z))
    B, C = (t.squeeze(2).transpose(1, 2) for t in (B, C))
    first = selective_scan_ref(u, delta, A, B, C, D, z, delta_bias, True, elemental_residual=changes)
    if flips:
        u, delta, z, B, C = (t.flip(-1) for t in (u, delta, z, B, C))
    scan = selective_scan_ref_sub if changes else selective_scan_ref
    second = scan(u, delta, A_b, B, C, D, z, delta_bias, True, elemental_residual=changes)
    return (first + (second.flip(-1) if flips else second)).transpose(1, 2)


def published_loop(u, delta, A, A_b, B, C, D, z, delta_bias):
    """Run the two loops with the memory use of the published code, which determines the cost of its training.

    Each iteration slices tensors (batch, dim, length, state). The gradient of a slice has the size of the whole
    tensor, so the cost of the backward pass is quadratic in the length.
    """
    d = F.softplus(delta + delta_bias)
    total = 2 * D * u
    for A_one, masked in ((A, False), (A_b, True)):
        u_, d_, B_, C_ = (t.flip(1) if masked else t for t in (u, d, B.squeeze(2), C.squeeze(2)))
        decay = torch.exp(torch.einsum("bld,dn->bdln", d_, A_one))
        drive = torch.einsum("bld,bln,bld->bdln", d_, B_, u_)
        h = u_[:, 0].unsqueeze(-1)
        outputs = []
        for t in range(u.shape[1]):
            carried = decay[:, :, t] * h
            h = carried + drive[:, :, t]
            read = carried * (t > 0) if masked else h
            outputs.append(torch.einsum("bdn,bn->bd", read, C_[:, t].to(read.dtype)))
        y = torch.stack(outputs, dim=1)
        total = total + (y.flip(1) if masked else y)
    return (total * F.silu(z)).to(u.dtype)


def parallel_scan(u, delta, A, A_b, B, C, D, z, delta_bias):
    """Run mambapy's parallel scan twice, adding the initial state to the first input; the mask subtracts inputs."""
    d = F.softplus(delta + delta_bias)
    total = 2 * D * u
    for A_one, masked in ((A, False), (A_b, True)):
        inputs = (t.flip(1) if masked else t for t in (u, d, B.squeeze(2), C.squeeze(2)))
        u_, d_, B_, C_ = inputs
        decay = torch.exp(d_.unsqueeze(-1) * A_one)
        drive = (d_ * u_).unsqueeze(-1) * B_.unsqueeze(2)
        start = F.pad((decay[:, :1] * u_[:, :1].unsqueeze(-1)), (0, 0, 0, 0, 0, u.shape[1] - 1))
        h = pscan(decay, drive + start)
        if masked:
            h = h - drive
            h = torch.cat([torch.zeros_like(h[:, :1]), h[:, 1:]], dim=1)
        y = (h @ C_.unsqueeze(-1).to(h.dtype)).squeeze(-1)
        total = total + (y.flip(1) if masked else y)
    return (total * F.silu(z)).to(u.dtype)


def stock_twice(u, delta, A, A_b, B, C, D, z, delta_bias, *, flips):
    """Run the stock scan twice and add the outputs; with `flips`, the second runs backward in time."""
    u, delta, z, B, C = (t.movedim(1, -1) for t in (u, delta, z, B, C))
    scan = stock_packages.load_extension(stock_packages.SCAN_MODULE)[0].selective_scan_fn
    first = scan(u, delta, A, B, C, D, z, delta_bias, True)
    if flips:
        u, delta, z, B, C = (t.flip(-1) for t in (u, delta, z, B, C))
    second = scan(u, delta, A_b, B, C, D, z, delta_bias, True)
    return (first + (second.flip(-1) if flips else second)).movedim(-1, 1)


class Candidate(NamedTuple):
    """A function to time.

    Attributes:
        function: Takes the nine inputs NAMES.
        yardstick: Reference loop that computes the same.
        time_contiguous: Whether its inputs have time last in memory.
    """

    function: Callable[..., Tensor]
    yardstick: Callable[..., Tensor] = loop_reference
    time_contiguous: bool = False


def candidates(device: str, dtype: torch.dtype, published: bool = False) -> dict[str, Candidate]:
    """Return all candidates that can run, by name; with `published`, also `published_loop`, which takes minutes."""
    found = {LOOP: Candidate(loop_reference)}
    if published:
        found[PUBLISHED] = Candidate(published_loop)
    for backend, state in available_backends(device, dtype).items():
        if state == "available" and backend != "reference":
            found[backend] = Candidate(functools.partial(bidirectional_scan, backend=backend))
    if stock.NAME in found:
        for name, flips in ((STOCK_PASS, True), (STOCK_KERNELS, False)):
            loop = functools.partial(loop_reference, changes=False, flips=flips)
            found[name] = Candidate(functools.partial(stock_twice, flips=flips), loop, time_contiguous=True)
    if pscan is not None:
        found["mambapy"] = Candidate(parallel_scan)
    return found
