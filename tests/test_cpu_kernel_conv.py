"""The C++ causal convolution against PyTorch's own in float64: values, gradients, strides, threads."""

import pytest
import torch
import torch.nn.functional as F

from mamba.mamba_ssm.ops.selective_scan import cpu

REASON = cpu.unavailable_reason(torch.device("cpu"), torch.float32)
pytestmark = [pytest.mark.skipif(REASON is not None, reason=str(REASON)), pytest.mark.usefixtures("poisoned_memory")]


def reference(x, weight, bias, silu):
    width = weight.shape[1]
    y = F.conv1d(x.transpose(1, 2), weight.unsqueeze(1), bias, padding=width - 1, groups=weight.shape[0])
    y = y[..., : x.shape[1]].transpose(1, 2)
    return F.silu(y) if silu else y


def assert_close(got, want, tolerance):
    assert got.shape == want.shape
    assert (got.double() - want).norm() <= tolerance * want.norm()


def conv_inputs(batch=2, length=150, dim=24, width=4, bias=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(batch, length, dim, generator=generator).to(dtype) for _ in range(2))
    weight = torch.randn(dim, width, generator=generator)
    return x, weight, torch.randn(dim, generator=generator) if bias else None, grad


def check(x, weight, bias, grad_out, silu, tolerance):
    leaves = [t.double().requires_grad_() for t in (x, weight, bias) if t is not None]
    expected = reference(*leaves, *([None] if bias is None else []), silu)
    wanted = torch.autograd.grad(expected, leaves, grad_out.double())
    out = cpu.causal_conv1d_forward(x, weight, bias, silu)
    assert out.dtype == x.dtype
    assert_close(out, expected, tolerance)
    grads = cpu.causal_conv1d_backward(grad_out, x, weight, bias, silu)
    assert (grads[2] is None) == (bias is None)
    for got, want in zip([g for g in grads if g is not None], wanted, strict=True):
        assert_close(got, want, tolerance)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 7])
def test_widths(width, bias, silu):
    check(*conv_inputs(width=width, bias=bias), silu, 1e-5)


@pytest.mark.parametrize("instruction_set", ["avx512", "avx2", "baseline"])
@pytest.mark.parametrize(("length", "dim"), [(1, 16), (2, 5), (3, 33), (9, 100), (65, 17), (3000, 8)])
def test_shapes(length, dim, instruction_set):
    try:
        torch.ops.vmp_cpu.use_instruction_set(instruction_set)
        check(*conv_inputs(length=length, dim=dim), True, 1e-5)
        check(*conv_inputs(length=length, dim=dim, dtype=torch.bfloat16), True, 1e-2)
    finally:
        torch.ops.vmp_cpu.use_instruction_set("")


def test_half_of_a_projection_needs_no_copy():
    x, weight, bias, grad = conv_inputs()
    wide = torch.randn(2, 150, 48)
    wide[..., 24:] = x
    check(wide[..., 24:], weight, bias, grad, True, 1e-5)


def test_an_empty_batch():
    x, weight, bias, grad = conv_inputs(batch=0)
    assert cpu.causal_conv1d_forward(x, weight, bias, True).shape == x.shape
    grads = cpu.causal_conv1d_backward(grad, x, weight, bias, True)
    assert [tuple(g.shape) for g in grads] == [tuple(t.shape) for t in (x, weight, bias)]
    assert not any(g.any() for g in grads)


def test_any_number_of_threads_gives_the_same_bits():
    x, weight, bias, grad = conv_inputs(batch=3, length=500)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            grads = cpu.causal_conv1d_backward(grad, x, weight, bias, True)
            results.append([cpu.causal_conv1d_forward(x, weight, bias, True), *grads])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_weight_that_does_not_fit_is_named():
    x, weight, bias, _ = conv_inputs()
    with pytest.raises(ValueError, match="weight"):
        cpu.causal_conv1d_forward(x, weight[1:], bias, True)
    with pytest.raises(ValueError, match="bias"):
        cpu.causal_conv1d_forward(x, weight, bias[1:], True)
