"""The identities that make the method from a stock scan, in float64, and what is said of a broken installation."""

import importlib
import logging
import sys
import types

import pytest
import torch
import torch.nn.functional as F

from mamba.mamba_ssm.ops.selective_scan import cuda
from mamba.mamba_ssm.ops.selective_scan_interface import selective_scan_ref
from tests.test_scan_operator import ABSENT, flag_combinations, reference, scan_inputs


class PlainStockScan:
    """What mamba-ssm's kernel computes, in plain PyTorch: a scan from a zero state, its gradients by autograd."""

    def forward(self, u, d, A, B, C):
        return selective_scan_ref(u, d, A, B, C, elemental_residual=False), "saved"

    def backward(self, grad_y, u, d, A, B, C, saved):
        assert saved == "saved"
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in (u, d, A, B, C)]
            return torch.autograd.grad(selective_scan_ref(*inputs, elemental_residual=False), inputs, grad_y)


@pytest.mark.parametrize("without", ABSENT.values(), ids=ABSENT.keys())
@pytest.mark.parametrize("flags", flag_combinations(), ids=lambda flags: "".join("01"[v] for v in flags.values()))
@pytest.mark.parametrize("length", [1, 2, 9])
def test_identities_are_exact(length, flags, without):
    inputs = scan_inputs(length=length, groups=2, without=without)
    expected = reference(**inputs, **flags)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    values = [None if t is None else t.detach() for t in inputs.values()]
    out = cuda.scan_forward(PlainStockScan(), *values, *flags.values())
    torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)
    names = [name for name, t in inputs.items() if t is not None]
    want = torch.autograd.grad((expected * weight).sum(), [inputs[name] for name in names], allow_unused=True)
    got = dict(zip(inputs, cuda.scan_backward(PlainStockScan(), weight, *values, *flags.values()), strict=True))
    assert [name for name, grad in got.items() if grad is not None] == names
    for name, grad in zip(names, want, strict=True):
        grad = torch.zeros_like(inputs[name]) if grad is None else grad
        torch.testing.assert_close(got[name], grad, rtol=1e-10, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_without_the_correction_the_identity_fails():
    inputs = scan_inputs()
    flags = dict(delta_softplus=True, elemental_residual=True, masked=False, masked_backward=True)
    values = [t.detach() for t in inputs.values()]
    out = cuda.scan_forward(PlainStockScan(), *values, *{**flags, "masked_backward": False}.values())
    assert (out - reference(**inputs, **flags)).abs().max() > 0.1


def test_bfloat16_is_scanned_in_float32():
    inputs = {name: t.detach() for name, t in scan_inputs(length=30, dtype=torch.bfloat16).items()}
    flags = dict(delta_softplus=True, elemental_residual=True, masked=False, masked_backward=True)
    out = cuda.scan_forward(PlainStockScan(), *inputs.values(), *flags.values())
    exact = reference(**{name: t.double() for name, t in inputs.items()}, **flags)
    assert out.dtype == torch.bfloat16
    assert (out.double() - exact).abs().max() / exact.abs().max() < 2**-8


class StandInExtension(types.ModuleType):
    """selective_scan_cuda's two functions with their argument order, computed in plain PyTorch."""

    def fwd(self, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        assert (D, z, delta_bias, delta_softplus) == (None, None, None, False)
        assert all(t.is_contiguous() and t.dtype == torch.float32 for t in (u, delta, A, B, C))
        return [selective_scan_ref(u, delta, A, B, C, elemental_residual=False), "saved"]

    def bwd(self, u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z):
        assert (D, z, delta_bias, out, dz, delta_softplus, recompute_out_z) == (None,) * 5 + (False, False)
        assert dout.is_contiguous()
        return [*PlainStockScan().backward(dout, u, delta, A, B, C, x), None, None]


@pytest.fixture
def fresh():
    cuda.load_extension.cache_clear()
    yield
    cuda.load_extension.cache_clear()


def test_backend_functions_reach_the_extension(monkeypatch, fresh):
    monkeypatch.setitem(sys.modules, cuda.SCAN_MODULE, StandInExtension(cuda.SCAN_MODULE))
    assert cuda.unavailable_reason(torch.device("cuda"), torch.float32) is None
    inputs = scan_inputs(dtype=torch.float32)
    flags = (True, True, False, True)
    names = ("delta_softplus", "elemental_residual", "masked", "masked_backward")
    values = [t.detach() for t in inputs.values()]
    out, states = cuda.forward(*values, *flags)
    expected = reference(**inputs, **dict(zip(names, flags, strict=True)))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    want = torch.autograd.grad(expected.sum(), list(inputs.values()))
    got = cuda.backward(torch.ones_like(out), *values, states, *flags)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_an_absent_package_is_told_without_alarm(monkeypatch, fresh, caplog):
    monkeypatch.setitem(sys.modules, cuda.SCAN_MODULE, None)  # an import of it then finds nothing
    reason = cuda.unavailable_reason(torch.device("cuda"), torch.float32)
    assert "mamba-ssm is not installed" in reason
    assert "requirements-cuda.txt" in reason
    assert not caplog.records


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            'ImportError("selective_scan_cuda.so: undefined symbol: _ZN3c104cuda9SetDeviceEi")',
            "built against another PyTorch",
        ),
        ('ImportError("libcudart.so.11.0: cannot open shared object file: No such file")', "built for another CUDA"),
        ('ModuleNotFoundError("No module named transformers", name="transformers")', "transformers"),
    ],
)
def test_a_broken_package_is_explained_once(error, words, tmp_path, monkeypatch, fresh, caplog):
    (tmp_path / f"{cuda.SCAN_MODULE}.py").write_text(f"raise {error}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, cuda.SCAN_MODULE, raising=False)
    importlib.invalidate_caches()
    with caplog.at_level(logging.WARNING):
        reasons = {cuda.unavailable_reason(torch.device("cuda"), torch.float32) for _ in range(3)}
    (reason,) = reasons
    assert "installed but broken" in reason
    assert words in reason
    assert len(caplog.records) == 1


def test_other_devices_and_types_are_refused():
    assert "GPU" in cuda.unavailable_reason(torch.device("cpu"), torch.float32)
    assert "float32" in cuda.unavailable_reason(torch.device("cuda"), torch.float64)


def plain_convolution(x, weight, bias, silu):
    """Channels first, as causal-conv1d takes them."""
    out = F.conv1d(x, weight.unsqueeze(1), bias, padding=weight.shape[1] - 1, groups=weight.shape[0])[
        ..., : x.shape[2]
    ]
    return F.silu(out) if silu else out


class StandInConvolution(types.ModuleType):
    """causal_conv1d_cuda's two functions with their argument order, computed in plain PyTorch; counts its calls."""

    calls = 0

    def causal_conv1d_fwd(self, x, weight, bias, seq_idx, initial, out, final, silu):
        assert (seq_idx, initial, final) == (None, None, None)
        type(self).calls += 1
        out.copy_(plain_convolution(x, weight, bias, silu))

    def causal_conv1d_bwd(self, x, weight, bias, dout, seq_idx, initial, dfinal, dx, dweight, dbias, dinitial, silu):
        assert (seq_idx, initial, dfinal, dinitial) == (None,) * 4
        type(self).calls += 1
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in (x, weight, bias)]
            grads = torch.autograd.grad(plain_convolution(*inputs, silu), inputs, dout)
        for out, grad in zip((dx, dweight, dbias), grads, strict=True):
            out.copy_(grad)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("dim", "calls"), [(8, 2), (5, 0)], ids=["by the extension", "rows it cannot take"])
def test_convolution(dim, calls, with_bias, silu, monkeypatch, fresh):
    monkeypatch.setattr(StandInConvolution, "calls", 0)
    monkeypatch.setitem(sys.modules, cuda.CONVOLUTION_MODULE, StandInConvolution(cuda.CONVOLUTION_MODULE))
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(2, 11, dim, generator=generator) for _ in range(2))
    weight = torch.randn(dim, 4, generator=generator)
    bias = torch.randn(dim, generator=generator) if with_bias else None
    exact = [None if t is None else t.double().requires_grad_() for t in (x, weight, bias)]
    want = plain_convolution(exact[0].mT, *exact[1:], silu).mT
    wanted = torch.autograd.grad((want * grad).sum(), [t for t in exact if t is not None])
    torch.testing.assert_close(cuda.causal_conv1d_forward(x, weight, bias, silu).double(), want, rtol=1e-4, atol=1e-5)
    grads = cuda.causal_conv1d_backward(grad, x, weight, bias, silu)
    assert (grads[2] is None) == (bias is None)
    for a, b in zip(grads, wanted, strict=False):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)
    assert StandInConvolution.calls == calls
