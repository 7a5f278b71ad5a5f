"""The causal convolution by every backend against PyTorch's own conv1d, gradients and operator checks included."""

import pytest
import torch
import torch.nn.functional as F

from mamba.mamba_ssm.ops.causal_conv1d import _convolve, causal_conv1d
from mamba.mamba_ssm.ops.selective_scan import available_backends
from mamba.mamba_ssm.ops.selective_scan.dispatch import BACKENDS

AVAILABLE = [name for name, reason in available_backends().items() if reason == "available"]
WITH_KERNEL = [name for name in AVAILABLE if hasattr(BACKENDS.get(name), "causal_conv1d_forward")]


def conv_inputs(length, dim=20, width=4, bias=True):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, length, 2 * dim), (dim, width), (dim,)]
    xz, weight, offset = (torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes)
    return xz, weight, offset if bias else None


def expected(x, weight, bias, silu):
    y = F.conv1d(x.mT, weight.unsqueeze(1), bias, padding=weight.shape[1] - 1, groups=x.shape[2])[..., : x.shape[1]].mT
    return F.silu(y) if silu else y


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("length", [1, 3, 50])
@pytest.mark.parametrize("backend", AVAILABLE)
def test_values_and_gradients(backend, length, bias, silu, reverse):
    xz, weight, offset = conv_inputs(length, bias=bias)
    x = xz.chunk(2, dim=-1)[0]  # a column slice, as in the mixer
    inputs = [t for t in (xz, weight, offset) if t is not None]
    got = causal_conv1d(x, weight, offset, silu=silu, reverse=reverse, backend=backend)
    want = expected(x.flip(1), weight, offset, silu).flip(1) if reverse else expected(x, weight, offset, silu)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(got.sin().sum(), inputs), torch.autograd.grad(want.sin().sum(), inputs), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("backend", WITH_KERNEL)
def test_opcheck(backend, bias, reverse):
    if reverse and not getattr(BACKENDS[backend], "REVERSES_CONVOLUTION", False):
        pytest.skip("flipped copies, not the operator, reverse this backend's convolution")
    xz, weight, offset = conv_inputs(5, bias=bias)
    offset = None if offset is None else offset.repeat(2)
    torch.library.opcheck(_convolve, (xz, torch.cat([weight, weight]), offset, True, backend, reverse))


def test_the_kernel_reverses_without_flipped_copies():
    """What a convolution keeps for its backward pass is its input itself, also backward in time."""
    if "cpu" not in WITH_KERNEL:
        pytest.skip("no C++ kernel here")
    x, weight, _ = conv_inputs(50)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        causal_conv1d(x, torch.cat([weight, weight]), reverse=True, backend="cpu")
    assert x.data_ptr() in kept
