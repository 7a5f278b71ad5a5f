"""The identities that make the method from a stock scan, in float64, and what is said of a broken installation."""

import logging
import sys
import types

import pytest
import torch
import torch.nn.functional as F

from mamba.mamba_ssm.ops.causal_conv1d import causal_conv1d
from mamba.mamba_ssm.ops.selective_scan import bidirectional_scan, stock, stock_packages
from mamba.mamba_ssm.ops.selective_scan_interface import selective_scan_ref
from tests.stock_standins import install
from tests.test_doctor import put_module
from tests.test_scan_operator import ABSENT, flag_combinations, reference, scan_inputs


def plain_scan(u, delta, A, B, C):
    """What mamba-ssm's function computes without its options: a scan from a zero state."""
    return selective_scan_ref(u, delta, A, B, C, elemental_residual=False)


@pytest.fixture
def fresh():
    stock_packages.load_extension.cache_clear()
    yield
    stock_packages.load_extension.cache_clear()


@pytest.fixture
def stand_in(monkeypatch, fresh):
    """mamba-ssm's module with `plain_scan` for its kernel; notes the inputs of every call."""
    module, calls = types.ModuleType(stock_packages.SCAN_MODULE), []

    def selective_scan_fn(**inputs):
        calls.append(inputs)
        return plain_scan(**inputs)

    module.selective_scan_fn = selective_scan_fn
    install(monkeypatch, stock_packages.SCAN_MODULE, module)
    monkeypatch.setattr(stock, "unavailable_reason", lambda device, dtype: None)
    return calls


@pytest.mark.parametrize("without", ABSENT.values(), ids=ABSENT.keys())
@pytest.mark.parametrize("flags", flag_combinations(), ids=lambda flags: "".join("01"[v] for v in flags.values()))
def test_identities_are_exact(flags, without, stand_in):
    for length in (1, 2, 9):
        stand_in.clear()
        inputs = scan_inputs(length=length, groups=2, without=without)
        expected = reference(**inputs, **flags)
        out = bidirectional_scan(**inputs, **flags, backend=stock.NAME)
        torch.testing.assert_close(out, expected, rtol=1e-11, atol=1e-12)
        assert len(stand_in) == 2 - ("A" in without) - ("A_b" in without)
        given = {name: t for name, t in inputs.items() if t is not None}
        weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        got, want = (
            torch.autograd.grad((y * weight).sum(), list(given.values()), materialize_grads=True)
            for y in (out, expected)
        )
        for name, a, b in zip(given, got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11, msg=lambda m, n=name, s=length: f"{s}, {n}: {m}")


def test_without_the_correction_the_identity_fails(stand_in):
    inputs = scan_inputs()
    out = bidirectional_scan(**inputs, masked_backward=False, backend=stock.NAME)
    masked = dict(delta_softplus=True, elemental_residual=True, masked=False, masked_backward=True)
    assert (out - reference(**inputs, **masked)).abs().max() > 0.1


def test_bfloat16_is_scanned_in_contiguous_float32(stand_in):
    inputs = {name: t.detach() for name, t in scan_inputs(length=30, dtype=torch.bfloat16).items()}
    flags = dict(delta_softplus=True, elemental_residual=True, masked=False, masked_backward=True)
    out = bidirectional_scan(**inputs, **flags, backend=stock.NAME)
    exact = reference(**{name: t.double() for name, t in inputs.items()}, **flags)
    assert out.dtype == torch.bfloat16
    assert (out.double() - exact).abs().max() / exact.abs().max() < 2**-8
    assert all(t.is_contiguous() and t.dtype == torch.float32 for call in stand_in for t in call.values())


def test_nothing_but_the_inputs_is_kept_for_the_backward_pass(stand_in):
    inputs, kept = scan_inputs(length=50), []
    own = {t.untyped_storage().data_ptr() for t in inputs.values()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        bidirectional_scan(**inputs, backend=stock.NAME)
    assert all(t.untyped_storage().data_ptr() in own for t in kept if t.numel())


def test_an_absent_package_is_told_without_alarm(monkeypatch, fresh, caplog):
    monkeypatch.setitem(sys.modules, stock_packages.SCAN_MODULE, None)  # an import of it then finds nothing
    reason = stock.unavailable_reason(torch.device("cuda"), torch.float32)
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
    put_module(monkeypatch, tmp_path, stock_packages.SCAN_MODULE, f"raise {error}\n")
    with caplog.at_level(logging.WARNING):
        reasons = {stock.unavailable_reason(torch.device("cuda"), torch.float32) for _ in range(3)}
    (reason,) = reasons
    assert "installed but broken" in reason
    assert words in reason
    assert len(caplog.records) == 1


def test_other_devices_and_types_are_refused():
    assert "GPU" in stock.unavailable_reason(torch.device("cpu"), torch.float32)
    assert "float32" in stock.unavailable_reason(torch.device("cuda"), torch.float64)


def plain_convolution(x, weight, bias, silu):
    """Channels first, as causal-conv1d takes them."""
    out = F.conv1d(x, weight.unsqueeze(1), bias, padding=weight.shape[1] - 1, groups=weight.shape[0])[
        ..., : x.shape[2]
    ]
    return F.silu(out) if silu else out


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("dim", "calls"), [(8, 1), (5, 0)], ids=["by the package", "rows it cannot take"])
def test_convolution(dim, calls, with_bias, silu, monkeypatch, fresh):
    module, reported = types.ModuleType(stock_packages.CONVOLUTION_MODULE), []

    def causal_conv1d_fn(x, weight, bias, activation):
        reported.append(activation)
        return plain_convolution(x, weight, bias, activation == "silu")

    module.causal_conv1d_fn = causal_conv1d_fn
    install(monkeypatch, stock_packages.CONVOLUTION_MODULE, module)
    monkeypatch.setattr(stock, "unavailable_reason", lambda device, dtype: None)
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(2, 11, dim, generator=generator) for _ in range(2))
    weight = torch.randn(dim, 4, generator=generator)
    bias = torch.randn(dim, generator=generator) if with_bias else None
    inputs = [t.requires_grad_() for t in (x, weight, bias) if t is not None]
    exact = [None if t is None else t.detach().double().requires_grad_() for t in (x, weight, bias)]
    want = plain_convolution(exact[0].mT, *exact[1:], silu).mT
    wanted = torch.autograd.grad((want * grad).sum(), [t for t in exact if t is not None])
    out = causal_conv1d(x, weight, bias, silu=silu, backend=stock.NAME)
    torch.testing.assert_close(out.double(), want, rtol=1e-4, atol=1e-5)
    for a, b in zip(torch.autograd.grad((out * grad).sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)
    assert reported == ["silu" if silu else None] * calls
