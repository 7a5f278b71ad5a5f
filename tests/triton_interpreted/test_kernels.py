"""The Triton kernels on the CPU: published scans, blocks and models, the float64 reference, odd shapes, every tile."""

import pytest
import torch

import tests.test_bimamba_inner as block
import tests.test_selective_scan as published
from mamba.mamba_ssm.ops.selective_scan import available_backends, bidirectional_scan
from mamba.mamba_ssm.ops.triton import launching, selective_scan
from tests.goldens import golden_cases
from tests.test_models import golden_model
from tests.test_scan_operator import ABSENT, flag_combinations, reference, scan_inputs

pytestmark = pytest.mark.usefixtures("poisoned_memory")

METHOD = dict(delta_softplus=True, elemental_residual=True, masked=False, masked_backward=True)
FLOAT32 = 1e-5  # of the largest value; typical is 3e-7, a wrong term shows as 1e-2 and more
ALL_TILES = sorted({*launching.FORWARD_TILES, *launching.BACKWARD_TILES}, key=str)


@pytest.fixture
def short(together, monkeypatch):
    """`together` with tiles of four tokens: even short sequences have several, and the interpreter takes less time."""
    monkeypatch.setattr(selective_scan, "fastest_tile", lambda *_: launching.Tile(4, 1))


def errors(flags, dtype=torch.float32, change=lambda inputs: inputs, **shape):
    """Largest error of the output and of every gradient, relative to the largest value of the float64 reference."""
    inputs = scan_inputs(dtype=dtype, **shape)
    if not flags["delta_softplus"]:
        for name in ("delta", "delta_bias"):  # steps below 0 would make the states grow without bound
            inputs[name] = (inputs[name].detach().abs() * 0.1).requires_grad_()
    exact = {name: None if t is None else t.detach().double().requires_grad_() for name, t in inputs.items()}
    out = bidirectional_scan(**change(inputs), **flags, backend="triton")
    expected = reference(**exact, **flags)
    assert out.dtype == dtype
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    names = [name for name, t in inputs.items() if t is not None]
    got = torch.autograd.grad((out * weight).sum(), [inputs[name] for name in names])
    want = torch.autograd.grad((expected * weight).sum(), [exact[name] for name in names], allow_unused=True)
    found = {"out": relative(out, expected)}
    for name, a, b in zip(names, got, want, strict=True):
        found[name] = relative(a, torch.zeros_like(exact[name]) if b is None else b)
    return found


def relative(got, want):
    return ((got.double() - want).abs().max() / want.abs().max().clamp(min=1e-12)).item()


def assert_close(found, limit):
    assert all(error < limit for error in found.values()), found


def test_the_interpreter_makes_the_backend_available_on_the_cpu():
    assert available_backends("cpu", torch.float32)["triton"] == "available"
    assert "float32" in available_backends("cpu", torch.float64)["triton"]


# B and C that do not change with time are expanded before any backend sees them: once with all inputs is enough here.
CASES = [c for c in published.CASES if c["mode"] in ("BC3", "BC4") or (c["has_D"] and c["has_z"])]


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['case']}-{case['mode']}")
def test_published_outputs_and_gradients(case, masked, short):
    published.test_published_outputs_and_gradients("triton", case, masked)


@pytest.mark.parametrize("scan_input", ["conv", "raw"])
@pytest.mark.parametrize("case", golden_cases("bimamba_inner"), ids=lambda case: case["case"])
def test_published_block(case, scan_input, short):
    block.test_published_block("triton", case, scan_input)


@pytest.mark.parametrize("masked_backward", [True, False])
@pytest.mark.parametrize("elemental_residual", [True, False])
def test_block_gradients(elemental_residual, masked_backward, short):
    block.test_block_gradients_equal_the_reference("triton", elemental_residual, masked_backward)


@pytest.mark.parametrize("case", golden_cases("model"), ids=lambda case: case["case"])
def test_published_logits(case, short):
    model, golden = golden_model("model", case, scan_input="conv", backend="triton")
    with torch.no_grad():
        torch.testing.assert_close(model(golden["x"]), golden["logits_conv"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flags", flag_combinations(), ids=lambda flags: "".join("01"[v] for v in flags.values()))
def test_every_switch(flags, short):
    assert_close(errors(flags, batch=2, length=19, dim=5, state=2), FLOAT32)


@pytest.mark.parametrize("without", ABSENT.values(), ids=ABSENT.keys())
def test_absent_inputs(without, short):
    assert_close(errors(METHOD, length=19, dim=6, state=2, groups=2, without=without), FLOAT32)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16, 31, 33, 129])
def test_odd_lengths(length, together):
    assert_close(errors(METHOD, batch=1, length=length, dim=3, state=2), FLOAT32)


@pytest.mark.parametrize(("dim", "groups"), [(1, 1), (33, 1), (70, 2), (12, 4), (5, 5)])
def test_odd_widths_and_groups(dim, groups, together):
    assert_close(errors(METHOD, batch=2, length=18, dim=dim, groups=groups, state=2), FLOAT32)


@pytest.mark.parametrize("state", [1, 4, 16, 64])
def test_sizes_of_the_state(state, together):
    assert_close(errors(METHOD, batch=1, length=17, dim=4, state=state), FLOAT32)


@pytest.mark.parametrize("tile", ALL_TILES, ids=str)
def test_every_tile(tile, together, monkeypatch):
    monkeypatch.setattr(selective_scan, "fastest_tile", lambda _, tiles, *__: tile if tile in tiles else tiles[0])
    assert_close(errors(METHOD, batch=2, length=45, dim=40, state=2), FLOAT32)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-11)])
def test_only_the_rounding_of_the_result_is_lost_in_half_precision(dtype, limit, together):
    """One step of the type in the last place for bfloat16, which the interpreter cuts off; half a step for float16."""
    found = errors(METHOD, dtype=dtype, batch=2, length=70, dim=6, state=4)
    assert_close(found, limit)
    assert_close({name: found[name] for name in ("A", "A_b", "D", "delta_bias")}, FLOAT32)


def test_strided_inputs(together):
    """As the block hands them over: slices of a projection's output, and a transposed tensor."""

    def strided(inputs):
        wide = {name: torch.cat([inputs[name], inputs[name]], -1)[..., : inputs[name].shape[-1]] for name in "BCz"}
        turned = {name: inputs[name].transpose(1, 2).contiguous().transpose(1, 2) for name in ("u", "delta")}
        return inputs | wide | turned

    assert_close(errors(METHOD, change=strided, batch=2, length=21, dim=6, state=4), FLOAT32)


def test_the_gradient_of_z_in_half_a_tensor(together):
    inputs = {name: t.detach() for name, t in scan_inputs(2, 21, 6, 4, dtype=torch.float32).items()}
    scan, grad_out = (*inputs.values(), *METHOD.values()), torch.randn(2, 21, 6)
    both = torch.full((2, 21, 12), 7.0)
    found = selective_scan.scan_backward(grad_out, *scan, grad_z=both[..., 6:])
    for name, a, b in zip(inputs, found, selective_scan.scan_backward(grad_out, *scan), strict=True):
        assert torch.equal(a, b), name
    assert found[list(inputs).index("z")].data_ptr() == both[..., 6:].data_ptr() and (both[..., :6] == 7.0).all()


def test_an_empty_batch():
    inputs = scan_inputs(batch=0, dtype=torch.float32)
    out = bidirectional_scan(**inputs, backend="triton")
    assert out.shape == (0, 7, 4)
    grads = torch.autograd.grad(out.sum(), list(inputs.values()))
    assert all(g.shape == t.shape and not g.any() for g, t in zip(grads, inputs.values(), strict=True))


def test_a_layer_of_the_tiny_model(together):
    assert_close(errors(METHOD, batch=1, length=197, dim=384, state=16), FLOAT32)


def test_large_steps_and_inputs_stay_finite(together):
    inputs = scan_inputs(length=20, dtype=torch.float32)
    inputs["delta"] = (inputs["delta"].detach() * 100).requires_grad_()
    inputs["z"] = (inputs["z"].detach() * 200).requires_grad_()
    out = bidirectional_scan(**inputs, backend="triton")
    grads = torch.autograd.grad(out.sum(), list(inputs.values()))
    assert all(t.isfinite().all() for t in (out, *grads))


def test_program_by_program_as_the_interpreter_runs_them():
    """Without `together`: nothing of the interpreter replaced, several chunks, a tail in time and in channels."""
    assert_close(errors(METHOD, batch=1, length=18, dim=3, state=1), FLOAT32)


def test_the_same_to_the_bit_every_time(together):
    inputs = scan_inputs(length=40, dim=6, state=2, dtype=torch.float32)

    def step():
        out = bidirectional_scan(**inputs, backend="triton")
        return out, *torch.autograd.grad(out.sin().sum(), list(inputs.values()))

    assert all(torch.equal(a, b) for a, b in zip(step(), step(), strict=True))
