"""The C++ scan against a float64 loop: outputs, every gradient, odd shapes, extreme values, threads, memory."""

import itertools
import os

import pytest
import torch
import torch.nn.functional as F

from mamba.mamba_ssm.ops.selective_scan import cpu, kernel_library

REASON = cpu.unavailable_reason(torch.device("cpu"), torch.float32)
pytestmark = [pytest.mark.skipif(REASON is not None, reason=str(REASON)), pytest.mark.usefixtures("poisoned_memory")]

NAMES = ("u", "delta", "A", "A_b", "B", "C", "D", "z", "delta_bias")
PUBLISHED = (True, True, False, True)  # delta_softplus, elemental_residual, masked, masked_backward
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
INSTRUCTION_SETS = ("avx512", "avx2", "baseline")


@pytest.fixture
def instruction_set(request):
    name = torch.ops.vmp_cpu.use_instruction_set(request.param)
    if name != request.param:
        pytest.skip(f"this processor has no {request.param}")
    yield name
    torch.ops.vmp_cpu.use_instruction_set("")


def scan_inputs(batch=1, length=40, dim=24, state=16, groups=1, dtype=torch.float32, without=(), seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    inputs = {
        "u": normal(batch, length, dim).to(dtype),
        "delta": (normal(batch, length, dim) - 2).to(dtype),
        "A": -4 * torch.rand(dim, state, generator=generator),
        "A_b": -4 * torch.rand(dim, state, generator=generator),
        "B": normal(batch, length, groups, state).to(dtype),
        "C": normal(batch, length, groups, state).to(dtype),
        "D": normal(dim),
        "z": normal(batch, length, dim).to(dtype),
        "delta_bias": 0.1 * normal(dim),
    }
    return {name: None if name in without else t for name, t in inputs.items()}


def loop(u, delta, A, A_b, B, C, D, z, delta_bias, delta_softplus, residual, masked, masked_backward):
    """The definition of the operator, a loop over tokens, in the type of its inputs."""
    raw = delta if delta_bias is None else delta + delta_bias
    d = F.softplus(raw) if delta_softplus else raw
    B, C = (m.repeat_interleave(u.shape[2] // m.shape[2], dim=2) for m in (B, C))
    total = 0.0
    for A_one, hidden, flipped in ((A, masked, False), (A_b, masked_backward, True)):
        if A_one is None:
            continue
        steps = list(zip(*(t.unbind(1) for t in (u, d, B, C)), strict=True))
        steps = steps[::-1] if flipped else steps
        h = steps[0][0].unsqueeze(-1) * torch.ones_like(A_one) if residual else torch.zeros_like(A_one)
        reads = []
        for index, (u_t, d_t, B_t, C_t) in enumerate(steps):
            carried = torch.exp(d_t.unsqueeze(-1) * A_one) * h
            h = carried + (d_t * u_t).unsqueeze(-1) * B_t
            read = h if not hidden else carried * float(index > 0)
            reads.append((read * C_t).sum(-1))
        y = torch.stack(reads[::-1] if flipped else reads, dim=1)
        total = total + (y if D is None else y + D * u)
    return total if z is None else total * F.silu(z)


def relative_error(got, want):
    scale = want.norm().item()
    return (got.double() - want).norm().item() / scale if scale else got.double().norm().item()


def run_kernel(inputs, flags, grad_out):
    tensors = [inputs[name] for name in NAMES]
    out, states = cpu.forward(*tensors, *flags)
    return out, cpu.backward(grad_out, *tensors, states, *flags)


LAST_LOOP = {}


def loop_and_gradients(inputs, flags, grad_out):
    """The loop's output in float64, and its gradients by name; kept for the next instruction set."""
    given = {name: t.double() for name, t in inputs.items() if t is not None}
    grad_out = grad_out.double()
    asked = flags, *((name, t.shape, t.numpy().tobytes()) for name, t in (*given.items(), ("grad_out", grad_out)))
    if asked not in LAST_LOOP:
        expected = loop(*(given[name].requires_grad_() if name in given else None for name in NAMES), *flags)
        wanted = torch.autograd.grad(expected, list(given.values()), grad_out, allow_unused=True)
        LAST_LOOP.clear()
        LAST_LOOP[asked] = expected.detach(), dict(zip(given, wanted, strict=True))
    return LAST_LOOP[asked]


def check(inputs, flags, tolerance=None):
    """Runs the kernel and compares its output and every gradient with the float64 loop."""
    u = inputs["u"]
    tolerance = tolerance or TOLERANCE[u.dtype]
    grad_out = torch.randn(u.shape, generator=torch.Generator().manual_seed(7)).to(u.dtype)
    out, grads = run_kernel(inputs, flags, grad_out)
    expected, wanted = loop_and_gradients(inputs, flags, grad_out)
    assert out.dtype == u.dtype
    assert out.is_contiguous()
    assert relative_error(out, expected) <= tolerance, "out"
    for name, got in zip(NAMES, grads, strict=True):
        if inputs[name] is None:
            assert got is None, name
            continue
        want = torch.zeros_like(got, dtype=torch.float64) if wanted[name] is None else wanted[name]
        assert got.shape == inputs[name].shape, name
        assert got.dtype == inputs[name].dtype, name
        assert relative_error(got, want) <= tolerance, name


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
@pytest.mark.parametrize("flags", list(itertools.product([True, False], repeat=4)))
def test_every_combination_of_flags(flags, instruction_set):
    inputs = scan_inputs(batch=2, dim=20)
    if not flags[0]:  # no softplus: keep the steps positive, as the state would grow without bound
        inputs["delta"], inputs["delta_bias"] = inputs["delta"].abs(), inputs["delta_bias"].abs()
    check(inputs, flags)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
@pytest.mark.parametrize(("state", "groups", "dim"), [(1, 1, 5), (8, 1, 33), (16, 2, 40), (20, 1, 70), (20, 3, 51)])
def test_states_groups_and_dims_that_do_not_fill_vectors(state, groups, dim, instruction_set):
    check(scan_inputs(dim=dim, state=state, groups=groups), PUBLISHED)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 64, 65, 197, 3000])
def test_lengths(length):
    check(scan_inputs(length=length, dim=8), PUBLISHED)


@pytest.mark.parametrize(
    "without",
    [("A",), ("A_b",), ("z",), ("D",), ("delta_bias",), ("D", "z", "delta_bias"), ("A", "D", "z", "delta_bias")],
    ids="-".join,
)
def test_absent_inputs(without):
    check(scan_inputs(without=without), PUBLISHED)
    check(scan_inputs(without=without), (True, False, True, False))


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
@pytest.mark.parametrize(("length", "dim"), [(1, 16), (50, 37), (1569, 16)])
def test_bfloat16(length, dim, instruction_set):
    check(scan_inputs(length=length, dim=dim, dtype=torch.bfloat16), PUBLISHED)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
@pytest.mark.parametrize("step", [1e-8, 1e-3, 50.0])
def test_extreme_steps(step, instruction_set):
    inputs = scan_inputs(length=200, dim=16, without=("delta_bias",))
    raw = torch.tensor(step, dtype=torch.float64)
    for softplus, delta in ((False, raw), (True, torch.log(torch.expm1(raw)))):
        inputs["delta"] = torch.full_like(inputs["u"], delta.item())
        check(inputs, (softplus, True, False, True))


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
def test_every_step_size_and_its_slope_are_accurate_to_float32(instruction_set):
    inputs = scan_inputs(length=1, dim=1601, state=1, without=("A_b", "D", "z", "delta_bias"))
    for name in ("u", "B", "C"):
        inputs[name] = torch.ones_like(inputs[name])  # so that the output is the step size
    inputs["delta"] = torch.linspace(-20, 40, 1601).view(1, 1, -1)
    step, of_inputs = run_kernel(inputs, (True, False, False, False), torch.ones(1, 1, 1601))
    raw = inputs["delta"].double()
    torch.testing.assert_close(step.double(), torch.log1p(raw.exp()), rtol=2e-6, atol=0)
    torch.testing.assert_close(of_inputs[1].double(), raw.sigmoid(), rtol=2e-6, atol=0)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
@pytest.mark.parametrize("scale", [0.0, 1e-9, 1e-4, 30.0])
def test_decays_near_none_and_far_from_it(scale, instruction_set):
    inputs = scan_inputs(length=300, dim=16)
    inputs["A"], inputs["A_b"] = inputs["A"] * scale, inputs["A_b"] * scale
    check(inputs, PUBLISHED)


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS, indirect=True)
def test_positive_decays_let_the_state_grow(instruction_set):
    inputs = scan_inputs(length=30, dim=16)
    inputs["A"], inputs["A_b"] = -inputs["A"] / 4, -inputs["A_b"] / 4
    check(inputs, PUBLISHED)


def test_many_channel_blocks_in_a_unit():
    check(scan_inputs(batch=6, length=9, dim=400, state=4), PUBLISHED)


def test_no_copies_of_strided_inputs_are_needed():
    """Inputs with strides: column slices of projections, gaps between batches and tokens, groups before tokens."""
    plain = scan_inputs(batch=2, length=35, dim=19, groups=1)
    wide = torch.randn(2, 35, 3 * 19 + 5, generator=torch.Generator().manual_seed(1))
    strided = dict(plain)
    for index, name in enumerate(("u", "delta", "z")):
        strided[name] = wide[..., 3 + 19 * index :][..., :19]
        strided[name].copy_(plain[name])
    for name in ("B", "C"):
        strided[name] = plain[name].permute(2, 1, 0, 3).contiguous().permute(2, 1, 0, 3)
    every_other = torch.zeros(4, 35, 19)[::2]
    every_other.copy_(strided["z"])
    strided["z"] = every_other
    check(strided, PUBLISHED)
    grad = torch.ones(()).expand(2, 35, 19)  # what out.sum() hands back: no stride at all
    for a, b in zip(run_kernel(strided, PUBLISHED, grad)[1], run_kernel(plain, PUBLISHED, grad)[1], strict=True):
        assert torch.equal(a, b)
    transposed = {**plain, "u": plain["u"].transpose(1, 2).contiguous().transpose(1, 2)}
    assert torch.equal(run_kernel(transposed, PUBLISHED, grad)[0], run_kernel(plain, PUBLISHED, grad)[0])


def test_an_empty_batch():
    inputs = scan_inputs(batch=0)
    out, grads = run_kernel(inputs, PUBLISHED, inputs["u"])
    assert out.shape == inputs["u"].shape
    for name, grad in zip(NAMES, grads, strict=True):
        assert grad.shape == inputs[name].shape
        assert not grad.any()


def test_state_shape_is_what_the_kernel_returns():
    for length, state, without in ((1, 1, ()), (32, 16, ("A",)), (33, 18, ())):
        inputs = scan_inputs(batch=2, length=length, state=state, without=without)
        _, states = cpu.forward(*inputs.values(), *PUBLISHED)
        assert tuple(states.shape) == cpu.state_shape(2, length, 24, state, 2 - len(without))


def test_forward_only_equals_forward():
    inputs = scan_inputs(length=70)
    out, _ = cpu.forward(*inputs.values(), *PUBLISHED)
    assert torch.equal(cpu.forward_only(*inputs.values(), *PUBLISHED), out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_number_of_threads_gives_the_same_bits(dtype):
    inputs = scan_inputs(batch=3, length=100, dim=200, groups=2, dtype=dtype)
    grad_out = torch.randn(3, 100, 200).to(dtype)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            out, grads = run_kernel(inputs, PUBLISHED, grad_out)
            results.append([out, *grads])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_gradients_far_from_the_only_token_that_has_one_are_zero_and_never_denormal():
    inputs = scan_inputs(length=600, dim=16)
    inputs["A"] = inputs["A_b"] = torch.full_like(inputs["A"], -4.0)
    grad_out = torch.zeros_like(inputs["u"])
    grad_out[:, 0] = 1.0
    _, grads = run_kernel(inputs, PUBLISHED, grad_out)
    smallest = torch.finfo(torch.float32).tiny
    for name, grad in zip(NAMES, grads, strict=True):
        assert not ((grad != 0) & (grad.abs() < smallest)).any(), name
    assert not grads[0][:, -1].any()
    assert torch.full((1,), smallest).div(4).ne(0), "the caller's own arithmetic stays as it was"


def test_what_does_not_fit_is_named():
    inputs = scan_inputs()
    wrong_inputs = {
        "delta": inputs["delta"][:, 1:],
        "A": inputs["A"][:, 1:],
        "D": inputs["D"][1:],
        "C": inputs["C"].bfloat16(),
        "z": inputs["z"].double(),
        "u": inputs["u"].double(),
    }
    for name, wrong in wrong_inputs.items():
        with pytest.raises(ValueError, match=name):
            cpu.forward(*{**inputs, name: wrong}.values(), *PUBLISHED)
    with pytest.raises(ValueError, match="at least one direction"):
        cpu.forward(*{**inputs, "A": None, "A_b": None}.values(), *PUBLISHED)


def resident_bytes():
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * 4096


@pytest.mark.skipif(bool(os.environ.get(kernel_library.SANITIZE_VARIABLE)), reason="the sanitizer keeps freed memory")
def test_ten_thousand_calls_leave_no_memory_behind():
    inputs = scan_inputs(length=33, dim=16, state=4)
    grad_out = torch.ones_like(inputs["u"])
    x, weight = inputs["u"], torch.ones(16, 4)
    before = 0
    for call in range(10_500):
        run_kernel(inputs, PUBLISHED, grad_out)
        cpu.causal_conv1d_backward(cpu.causal_conv1d_forward(x, weight, None, True), x, weight, None, True)
        if call == 500:
            before = resident_bytes()
    assert resident_bytes() - before < 8 << 20
