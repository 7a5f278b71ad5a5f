"""The scan functions against the published code's outputs and gradients, and the properties that define the method."""

import pytest
import torch

from mamba.mamba_ssm.ops.selective_scan import available_backends
from mamba.mamba_ssm.ops.selective_scan_interface import (
    selective_scan_fn,
    selective_scan_ref,
    selective_scan_ref_sub,
)
from tests.goldens import golden_cases, golden_tensors

BACKENDS = [name for name, reason in available_backends().items() if reason == "available"]
INPUTS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
CASES = golden_cases("selective_scan")


def scan_by(backend):
    if backend == "reference":
        return lambda *args, masked, **kw: (selective_scan_ref_sub if masked else selective_scan_ref)(*args, **kw)
    return lambda *args, **kw: selective_scan_fn(*args, backend=backend, **kw)


def random_inputs(batch=2, dim=6, length=13, state=4, groups=None, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    matrix = (batch, state, length) if groups is None else (batch, groups, state, length)
    return {
        "u": normal(batch, dim, length),
        "delta": normal(batch, dim, length),
        "A": -torch.exp(normal(dim, state)),
        "B": normal(*matrix),
        "C": normal(*matrix),
        "D": normal(dim),
        "z": normal(batch, dim, length),
        "delta_bias": normal(dim),
    }


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['case']}-{case['mode']}")
@pytest.mark.parametrize("backend", BACKENDS)
def test_published_outputs_and_gradients(backend, case, masked):
    if masked and case["mode"] == "BC4":
        pytest.skip("the published code forgets the mask for grouped B and C; see the test against single groups")
    golden = golden_tensors("selective_scan", case["case"])
    inputs = {name: golden[name].clone().requires_grad_() for name in INPUTS if name in golden}
    prefix = "masked_" if masked else ""
    out, last_state = scan_by(backend)(
        **inputs, delta_softplus=bool(case["delta_softplus"]), return_last_state=True, masked=masked
    )
    torch.testing.assert_close(out, golden[prefix + "out"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last_state, golden[prefix + "last_state"], rtol=1e-4, atol=1e-5)
    (out * golden["w"]).sum().backward()
    for name, tensor in inputs.items():
        grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad  # a masked single token reads no input
        torch.testing.assert_close(
            grad, golden[f"{prefix}grad_{name}"], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"grad {n}: {m}"
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_mask_applies_to_every_group(backend):
    inputs = random_inputs(dim=6, groups=2, dtype=torch.float32)
    out = scan_by(backend)(**inputs, masked=True)
    for group in range(2):
        channels = slice(3 * group, 3 * group + 3)
        one = {n: t[:, channels] if n in ("u", "delta", "z") else t[channels] for n, t in inputs.items()}
        one["B"], one["C"] = inputs["B"][:, group], inputs["C"][:, group]
        torch.testing.assert_close(out[:, channels], selective_scan_ref_sub(**one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_without_the_residual_the_first_token_matters_through_its_own_input_only(masked):
    inputs = random_inputs()
    with_residual = selective_scan_fn(**inputs, masked=masked, elemental_residual=True, backend="portable")
    without = selective_scan_fn(**inputs, masked=masked, elemental_residual=False, backend="portable")
    extra = {**inputs, "D": None, "B": torch.zeros_like(inputs["B"])}
    residual_alone = selective_scan_fn(**extra, masked=masked, elemental_residual=True, backend="portable")
    torch.testing.assert_close(with_residual - without, residual_alone)


def test_residual_equals_a_virtual_first_token():
    """method: prepend a token with step 1, B = 1 and the first input to a scan from 0, drop its output."""
    inputs = random_inputs()
    u, delta, B, C = inputs["u"], inputs["delta"], inputs["B"], inputs["C"]
    first = {
        "u": torch.cat([u[..., :1], u], -1),
        "delta": torch.cat([torch.ones_like(delta[..., :1]), delta], -1),
        "B": torch.cat([torch.ones_like(B[..., :1]), B], -1),
        "C": torch.cat([C[..., :1], C], -1),
    }
    expected = selective_scan_ref(**first, A=inputs["A"], D=inputs["D"], elemental_residual=False)[..., 1:]
    torch.testing.assert_close(selective_scan_ref(u, delta, inputs["A"], B, C, inputs["D"]), expected)


def test_masked_scan_never_reads_its_own_token():
    inputs = random_inputs(length=7)
    inputs.update(D=None, z=None)
    u = inputs["u"].requires_grad_()
    out = selective_scan_ref_sub(**inputs, elemental_residual=False)
    for t in range(7):
        (grad,) = torch.autograd.grad(out[..., t].sum(), u, retain_graph=True)
        assert torch.equal(grad[..., t:], torch.zeros_like(grad[..., t:]))
        assert t == 0 or grad[..., :t].abs().min() > 0


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
def test_complex_state_equals_the_sum_over_powers(masked):
    """Complex A, constant B and C: the output against the unrolled sum over earlier tokens, twice its real part."""
    generator = torch.Generator().manual_seed(1)
    dim, length, state = 3, 6, 4

    def complex_normal():
        return torch.view_as_complex(torch.randn(dim, state, 2, generator=generator, dtype=torch.float64))

    A, B, C = complex_normal() - 1.5, complex_normal(), complex_normal()
    u = torch.randn(1, dim, length, generator=generator, dtype=torch.float64)
    d = torch.rand(1, dim, length, generator=generator, dtype=torch.float64)
    out = selective_scan_fn(u, d, A, B, C, masked=masked)
    for t in range(length):
        upto = torch.exp(A * d[0, :, : t + 1].sum(-1, keepdim=True)) * u[0, :, :1] * (t > 0 or not masked)
        for s in range(t if masked else t + 1):
            upto = upto + torch.exp(A * d[0, :, s + 1 : t + 1].sum(-1, keepdim=True)) * (d * u)[0, :, s : s + 1] * B
        torch.testing.assert_close(out[0, :, t], 2 * (upto * C).sum(-1).real)


def test_complex_gradients_and_variable_matrices():
    generator = torch.Generator().manual_seed(2)
    batch, dim, length, state = 1, 2, 4, 3
    A = torch.view_as_complex(torch.randn(dim, state, 2, generator=generator, dtype=torch.float64)) - 1.5
    pairs = [torch.randn(batch, state, length, 2, generator=generator, dtype=torch.float64) for _ in "BC"]
    B, C = (p.flatten(2).requires_grad_() for p in pairs)
    u = torch.randn(batch, dim, length, generator=generator, dtype=torch.float64, requires_grad=True)
    d = torch.rand(batch, dim, length, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(selective_scan_ref_sub, (u, d, A.requires_grad_(), B, C))
    h = torch.view_as_complex(pairs[0]).permute(0, 2, 1).unsqueeze(2) * (d * u).transpose(1, 2).unsqueeze(-1)
    only_first = selective_scan_ref(u, d, A, B, C, elemental_residual=False)[..., 0]
    expected = 2 * (h[:, 0] * torch.view_as_complex(pairs[1])[..., 0].unsqueeze(1)).sum(-1).real
    torch.testing.assert_close(only_first, expected)


def test_unknown_backend_is_an_error_that_names_the_known():
    with pytest.raises(ValueError, match="unknown scan backend 'fast'.*portable"):
        selective_scan_fn(**random_inputs(), backend="fast")


def test_environment_variable_chooses_the_backend(monkeypatch):
    monkeypatch.setenv("VIDEOMAMBAPRO_BACKEND", "nonsense")
    with pytest.raises(ValueError, match="VIDEOMAMBAPRO_BACKEND"):
        selective_scan_fn(**random_inputs())


def test_wrong_shapes_are_named():
    inputs = random_inputs()
    with pytest.raises(ValueError, match="delta must be"):
        selective_scan_fn(**{**inputs, "delta": inputs["delta"][..., :-1]})
