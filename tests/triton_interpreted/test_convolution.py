"""The Triton convolution on the CPU against PyTorch's in float64."""

import pytest
import torch
import torch.nn.functional as F

from mamba.mamba_ssm.ops.triton.causal_conv1d import convolve, convolve_backward

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def expected_of(x, weight, bias, silu):
    out = F.conv1d(x.mT, weight.unsqueeze(1), bias, padding=weight.shape[1] - 1, groups=weight.shape[0])
    out = out[..., : x.shape[1]].mT
    return F.silu(out) if silu else out


def check(batch, length, dim, width, silu=True, with_bias=True, dtype=torch.float32, turned=False):
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(batch, length, dim, generator=generator).to(dtype) for _ in range(2))
    if turned:
        x, grad = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (x, grad))
    weight = torch.randn(dim, width, generator=generator)
    bias = torch.randn(dim, generator=generator) if with_bias else None
    exact = [None if t is None else t.double().requires_grad_() for t in (x, weight, bias)]
    want = expected_of(*exact, silu)
    wanted = torch.autograd.grad((want * grad).sum(), [t for t in exact if t is not None])
    got = convolve(x, weight, bias, silu)
    grads = convolve_backward(grad, x, weight, bias, silu)
    assert (got.dtype, grads[0].dtype, grads[1].dtype) == (dtype, dtype, torch.float32)
    limit = 2**-7 if dtype == torch.bfloat16 else 1e-5
    for a, b in zip((got, *grads), (want, *wanted), strict=False):
        assert (a.double() - b).abs().max() <= limit * b.abs().max()
    assert (grads[2] is None) == (bias is None)


@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("length", [1, 3, 16, 17, 50])
def test_lengths_and_widths(length, width, together):
    check(2, length, 5, width)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_with_and_without_activation_and_bias(silu, with_bias, together):
    check(1, 20, 130, 4, silu, with_bias)


def test_strided_and_half_precision(together):
    check(2, 20, 9, 4, turned=True)
    check(2, 20, 9, 4, dtype=torch.bfloat16)


def test_the_gradient_of_x_in_half_a_tensor(together):
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(2, 20, 9, generator=generator) for _ in range(2))
    weight, both = torch.randn(9, 4, generator=generator), torch.full((2, 20, 18), 7.0)
    expected = convolve_backward(grad, x, weight, None, True)
    found = convolve_backward(grad, x, weight, None, True, grad_x=both[..., 9:])
    assert torch.equal(both[..., 9:], expected[0]) and torch.equal(found[1], expected[1])
    assert (both[..., :9] == 7.0).all()
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        convolve_backward(grad, x, weight, None, True, grad_x=torch.empty(20, 2, 9).transpose(0, 1))
    with pytest.raises(RuntimeError, match="rows with gaps"):
        convolve_backward(grad, x, weight, None, True, grad_x=both[..., ::2])


def test_program_by_program_and_empty():
    check(1, 18, 3, 4)
    x = torch.zeros(0, 5, 3)
    assert convolve(x, torch.ones(3, 4), None, True).shape == (0, 5, 3)
    assert not convolve_backward(x, x, torch.ones(3, 4), None, True)[1].any()
