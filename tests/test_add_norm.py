"""The fused addition and norm of all available backends against PyTorch in float64."""

import pytest
import torch
import torch.nn.functional as F

from mamba.mamba_ssm.ops.layer_norm import _add_norm, add_norm, fused
from mamba.mamba_ssm.ops.selective_scan import available_backends
from mamba.mamba_ssm.ops.selective_scan.dispatch import BACKENDS

EPS = 1e-5
HERE = [name for name, state in available_backends().items() if state == "available" and name != "reference"]
FUSED = [name for name in HERE if fused(name, 8)]
SHAPES = [(2, 5, 12), (3, 192), (1, 1, 1), (70, 21)]
# Triton's interpreter takes half a second for 70 rows; tests/triton_interpreted/test_norm_rows.py has fewer.
SHAPES_OF = [(name, shape) for name in HERE for shape in SHAPES if (name, shape[0]) != ("triton", 70)]
FORMS = {"rms": (True, False), "rms and bias": (True, True), "layer": (False, True), "layer, no bias": (False, False)}


def inputs(shape=(2, 5, 12), dtype=torch.float64, residual=True, bias=True, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    dim = shape[-1]
    made = [normal(*shape).to(dtype), normal(*shape) if residual else None, normal(dim) + 1, normal(dim)]
    stream = torch.float64 if dtype == torch.float64 else torch.float32
    made[1:] = [None if t is None else t.to(stream) for t in made[1:]]
    made[3] = made[3] if bias else None
    return [None if t is None else t.requires_grad_() for t in made]


def expected_of(hidden, residual, weight, bias, is_rms):
    total = hidden.double() if residual is None else residual.double() + hidden.double()
    weight, bias = weight.double(), None if bias is None else bias.double()
    if is_rms:
        normed = F.rms_norm(total, weight.shape, weight, EPS)
        return (normed if bias is None else normed + bias), total
    return F.layer_norm(total, weight.shape, weight, bias, EPS), total


@pytest.mark.parametrize("with_residual", [True, False], ids=["residual", "first layer"])
@pytest.mark.parametrize(("is_rms", "with_bias"), FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("backend", "shape"), SHAPES_OF, ids=str)
def test_values_and_gradients(backend, shape, dtype, is_rms, with_bias, with_residual):
    if dtype == torch.float64 and backend in FUSED:
        pytest.skip("float64 has no kernel")
    given = inputs(shape, dtype, with_residual, with_bias)
    normed, total = add_norm(*given, EPS, is_rms, backend=backend)
    exact = [None if t is None else t.detach().double().requires_grad_() for t in given]
    want_normed, want_total = expected_of(*exact, is_rms)
    assert (normed.dtype, total.dtype) == (dtype, torch.float64 if dtype == torch.float64 else torch.float32)
    limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7}[dtype]
    if shape[-1] == 1:
        # One entry has no variance: LayerNorm divides the rounding of x - mean by sqrt(eps).
        limit /= EPS**0.5
    weights = [torch.randn(shape, generator=torch.Generator().manual_seed(s)).to(dtype) for s in (1, 2)]
    names = [i for i, t in enumerate(given) if t is not None]
    loss = (normed * weights[0]).sum() + (total * weights[1]).sum()
    want_loss = (want_normed * weights[0]).sum() + (want_total * weights[1]).sum()
    got = torch.autograd.grad(loss, [given[i] for i in names])
    want = torch.autograd.grad(want_loss, [exact[i] for i in names])
    for a, b in zip((normed, total, *got), (want_normed, want_total, *want), strict=True):
        assert (a.double() - b).abs().max() <= limit * b.abs().max().clamp(min=1.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("backend", FUSED)
def test_a_kernel_writes_the_gradient_of_hidden_in_its_type(backend, dtype):
    hidden, residual, weight, _ = (None if t is None else t.detach() for t in inputs((2, 5, 12), dtype))
    given = (hidden, residual, residual, weight, None, EPS, True)
    of_hidden = torch.full_like(hidden, torch.nan)
    found = BACKENDS[backend].add_norm_backward(*given, grad_hidden=of_hidden)
    for a, b in zip(found[:2], BACKENDS[backend].add_norm_backward(*given), strict=False):
        assert a.dtype == torch.float32 and torch.equal(a, b)
    limit = 2**-7 if dtype == torch.bfloat16 else 0  # the interpreter cuts off instead of rounding
    torch.testing.assert_close(of_hidden.float(), found[0], rtol=limit, atol=0)


@pytest.mark.parametrize("is_rms", [True, False])
def test_gradcheck_float64(is_rms):
    assert torch.autograd.gradcheck(lambda *t: add_norm(*t, EPS, is_rms), inputs((2, 3, 4)))


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("backend", FUSED)
def test_opcheck(backend, residual, bias):
    given = inputs(dtype=torch.bfloat16, residual=residual, bias=bias)
    torch.library.opcheck(_add_norm, (*given, EPS, True, backend))


def test_an_empty_batch_and_strided_rows():
    normed, total = add_norm(*inputs((0, 5, 12), torch.float32), EPS, True)
    assert normed.shape == total.shape == (0, 5, 12)
    hidden, residual, weight, _ = inputs((2, 5, 12), torch.float32)
    turned = [t.detach().transpose(0, 1) for t in (hidden, residual)]
    normed, _ = add_norm(*turned, weight, None, EPS, True)
    torch.testing.assert_close(normed, add_norm(hidden, residual, weight, None, EPS, True)[0].transpose(0, 1))


def test_wrong_shapes_are_named():
    hidden, residual, weight, bias = inputs()
    with pytest.raises(ValueError, match=r"weight must be \(12,\)"):
        add_norm(hidden, residual, weight[:5], bias, EPS, True)
    with pytest.raises(ValueError, match="residual must be"):
        add_norm(hidden, residual[:1], weight, bias, EPS, True)
