"""The registered operator: float64 gradients, opcheck, torch.compile, checkpointing, types, growth with the length."""

import itertools

import pytest
import torch

from mamba.mamba_ssm.ops.selective_scan import available_backends, bidirectional_scan, portable
from mamba.mamba_ssm.ops.selective_scan.registration import _scan
from mamba.mamba_ssm.ops.selective_scan_interface import selective_scan_ref, selective_scan_ref_sub

KERNELS = [name for name, reason in available_backends().items() if reason == "available" and name != "reference"]
ABSENT = {"none": (), "one direction": ("A",), "other direction": ("A_b",), "bare": ("D", "z", "delta_bias")}


def scan_inputs(batch=2, length=7, dim=4, state=3, groups=1, dtype=torch.float64, without=(), seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    parameter = torch.float64 if dtype == torch.float64 else torch.float32
    inputs = {
        "u": normal(batch, length, dim),
        "delta": normal(batch, length, dim) - 1,
        "A": -torch.exp(normal(dim, state)).to(parameter),
        "A_b": -torch.exp(normal(dim, state)).to(parameter),
        "B": normal(batch, length, groups, state),
        "C": normal(batch, length, groups, state),
        "D": normal(dim).to(parameter),
        "z": normal(batch, length, dim),
        "delta_bias": normal(dim).to(parameter),
    }
    return {name: None if name in without else t.requires_grad_() for name, t in inputs.items()}


def reference(
    u, delta, A, A_b, B, C, D, z, delta_bias, *, delta_softplus, elemental_residual, masked, masked_backward
):
    """The operator composed of the reference scans, channels first, flips and all."""
    first = [t if t is None else t.transpose(1, 2) for t in (u, delta, z)]
    B, C = (m.permute(0, 2, 3, 1) for m in (B, C))
    total = 0.0
    for matrix, flipped, hidden in ((A, False, masked), (A_b, True, masked_backward)):
        if matrix is None:
            continue
        u_, delta_, z_, B_, C_ = (t if t is None or not flipped else t.flip(-1) for t in (*first, B, C))
        scan = selective_scan_ref_sub if hidden else selective_scan_ref
        y = scan(u_, delta_, matrix, B_, C_, D, z_, delta_bias, delta_softplus, elemental_residual=elemental_residual)
        total = total + (y.flip(-1) if flipped else y)
    return total.transpose(1, 2)


def flag_combinations():
    names = ("delta_softplus", "elemental_residual", "masked", "masked_backward")
    return [dict(zip(names, values, strict=True)) for values in itertools.product([True, False], repeat=4)]


@pytest.mark.parametrize("without", ABSENT.values(), ids=ABSENT.keys())
@pytest.mark.parametrize("flags", flag_combinations(), ids=lambda flags: "".join("01"[v] for v in flags.values()))
def test_portable_values_and_gradients_equal_the_reference_in_float64(flags, without, monkeypatch):
    monkeypatch.setattr(portable, "SEGMENT_ELEMENTS", 1)
    monkeypatch.setattr(portable, "MIN_SEGMENT", 5)  # several segments, the last one short
    inputs = scan_inputs(length=13, groups=2, without=without)
    out = bidirectional_scan(**inputs, **flags, backend="portable")
    expected = reference(**inputs, **flags)
    torch.testing.assert_close(out, expected)
    tensors = [t for t in inputs.values() if t is not None]
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=out.dtype)
    got, want = (torch.autograd.grad((y * weight).sum(), tensors, allow_unused=True) for y in (out, expected))
    for name, a, b in zip([n for n, t in inputs.items() if t is not None], got, want, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, msg=lambda m, n=name: f"{n}: {m}")


def test_gradcheck():
    inputs = scan_inputs(batch=1, length=4, dim=2, state=2)
    names = list(inputs)

    def scan(*tensors):
        return bidirectional_scan(**dict(zip(names, tensors, strict=True)), backend="portable")

    assert torch.autograd.gradcheck(scan, tuple(inputs.values()))


@pytest.mark.slow
@pytest.mark.parametrize("without", ABSENT.values(), ids=ABSENT.keys())
@pytest.mark.parametrize("backend", KERNELS)
def test_opcheck(backend, without):
    inputs = scan_inputs(dtype=torch.float32, without=without)
    torch.library.opcheck(_scan, (*inputs.values(), True, True, False, True, backend, True))


@pytest.mark.parametrize("backend", KERNELS)
def test_inference_keeps_no_states_and_gives_the_same_output(backend):
    inputs = scan_inputs(dtype=torch.float32)
    out, states = _scan(*inputs.values(), True, True, False, True, backend, False)
    assert states.numel() == 0
    assert torch.equal(out, _scan(*inputs.values(), True, True, False, True, backend, True)[0])
    with torch.no_grad():
        assert torch.equal(out, bidirectional_scan(**inputs, backend=backend))


@pytest.mark.parametrize("backend", KERNELS)
def test_compiles_without_a_graph_break(backend):
    inputs = scan_inputs(dtype=torch.float32)

    def step(**tensors):
        return bidirectional_scan(**tensors, backend=backend).sin().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    tensors = list(inputs.values())
    got, want = (torch.autograd.grad(f(**inputs), tensors) for f in (compiled, step))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", KERNELS)
def test_activation_checkpointing_changes_nothing(backend):
    inputs = scan_inputs(dtype=torch.float32)
    tensors = list(inputs.values())

    def step():
        return bidirectional_scan(**inputs, backend=backend)

    out = torch.utils.checkpoint.checkpoint(step, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(out.sum(), tensors), torch.autograd.grad(step().sum(), tensors), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", KERNELS)
def test_bfloat16_inputs_are_computed_in_float32(backend):
    inputs = scan_inputs(length=50, dim=8, dtype=torch.bfloat16)
    exact = {name: t.detach().double() for name, t in inputs.items()}
    out = bidirectional_scan(**inputs, backend=backend)
    assert out.dtype == torch.bfloat16
    expected = bidirectional_scan(**exact, backend="portable")
    error = (out.double() - expected).abs().max() / expected.abs().max()
    assert error < 2**-8, "only the rounding of the output may be lost"


def test_saved_state_grows_with_the_length_and_not_faster():
    sizes = [torch.Size(portable.state_shape(1, length, 384, 16, 2)).numel() for length in (1569, 12545)]
    assert sizes[1] <= 1.2 * sizes[0] * 12545 / 1569


def test_a_gpu_takes_longer_segments():
    """Tiny with 8 clips: 5 of them instead of 75, and the fake kernel knows it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    saved = []
    for device in ("cpu", "cuda"):
        with FakeTensorMode(), torch.device(device):
            u, A, B = torch.empty(8, 1569, 384), torch.empty(384, 16), torch.empty(8, 1569, 1, 16)
            arguments = (u, u, A, A, B, B, None, None, None, True, True, False, True, "portable", True)
            saved.append(torch.ops.videomambapro.bidirectional_scan(*arguments)[1].shape)
    assert saved == [(2, 75, 8, 384, 16), (2, 5, 8, 384, 16)]
