"""What only a GPU can show: real launches, torch.compile on the device, training steps, --gpu_transforms."""

import numpy as np
import pytest
import torch

from benchmarks.candidates import make_inputs
from datasets.collate import clips_on
from datasets.erasing import MODES, RandomErasing
from mamba.mamba_ssm.ops.layer_norm import add_norm
from mamba.mamba_ssm.ops.selective_scan import available_backends, bidirectional_scan
from models import VideoMambaPro
from tests.test_scan_operator import ABSENT, flag_combinations, reference, scan_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device"),
]

METHOD = dict(delta_softplus=True, elemental_residual=True, masked=False, masked_backward=True)
BACKENDS = ("triton", "cuda", "portable")
LIMITS = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def require(backend, dtype=torch.float32):
    reason = available_backends("cuda", dtype)[backend]
    if reason != "available":
        pytest.skip(f"backend {backend}: {reason}")


def relative(got, want):
    return ((got.cpu().double() - want).abs().max() / want.abs().max().clamp(min=1e-9)).item()


@pytest.fixture(autouse=True)
def first_tile(monkeypatch):
    """Time no tiles, because each type and set of inputs would compile all of them."""
    monkeypatch.setenv("VIDEOMAMBAPRO_TRITON_TUNE", "0")


def check_against_float64(backend, shape, dtype, flags=METHOD, without=()):
    require(backend, dtype)
    batch, length, dim, state, groups = shape
    inputs = scan_inputs(batch, length, dim, state, groups, dtype, without)
    if not flags["delta_softplus"]:  # steps below 0 would let the state grow without bound
        for name in ("delta", "delta_bias"):
            inputs[name] = (0.1 * inputs[name].detach().abs()).requires_grad_()
    exact = {name: None if t is None else t.detach().double().requires_grad_() for name, t in inputs.items()}
    on_device = {name: None if t is None else t.detach().cuda().requires_grad_() for name, t in inputs.items()}
    out = bidirectional_scan(**on_device, **flags, backend=backend)
    expected = reference(**exact, **flags)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    names = [name for name, t in inputs.items() if t is not None]
    got = torch.autograd.grad((out * weight.cuda()).sum(), [on_device[name] for name in names])
    want = torch.autograd.grad((expected * weight).sum(), [exact[name] for name in names], allow_unused=True)
    errors = {"out": relative(out, expected)}
    for name, a, b in zip(names, got, want, strict=True):
        errors[name] = relative(a, torch.zeros_like(exact[name]) if b is None else b)
    assert all(error < LIMITS[dtype] for error in errors.values()), errors


@pytest.mark.parametrize("flags", flag_combinations(), ids=lambda flags: "".join("01"[v] for v in flags.values()))
def test_every_set_of_switches_equals_the_float64_reference(flags):
    check_against_float64("triton", (2, 197, 96, 16, 1), torch.float32, flags)


@pytest.mark.parametrize("without", ABSENT.values(), ids=ABSENT.keys())
@pytest.mark.parametrize("backend", BACKENDS)
def test_absent_inputs_and_several_groups_equal_the_float64_reference(backend, without):
    check_against_float64(backend, (1, 37, 33, 8, 3), torch.float32, without=without)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("shape", [(2, 197, 96, 16, 1), (3, 1, 5, 4, 1)], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_and_type_equals_the_float64_reference(backend, shape, dtype):
    check_against_float64(backend, shape, dtype)


@pytest.mark.parametrize(
    "shape, dtype",
    [((2, 1569, 384), torch.float32), ((2, 1569, 1152), torch.bfloat16), ((1, 12545, 384), torch.bfloat16)],
    ids=str,
)
def test_lengths_of_real_models_equal_float64(shape, dtype):
    require("triton")
    inputs = [t.detach().requires_grad_() for t in make_inputs(*shape, 16, dtype, "cuda").values()]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    grad_out = torch.randn(shape, device="cuda").to(dtype)
    results = []
    for given, backend in ((inputs, "triton"), (exact, "portable")):
        out = bidirectional_scan(*given, backend=backend)
        results.append((out, *torch.autograd.grad(out, given, grad_out.to(out.dtype))))
    errors = [((a.double() - b).norm() / b.norm()).item() for a, b in zip(*results, strict=True)]
    assert max(errors) < LIMITS[dtype] / 4, errors


def test_offsets_beyond_two_to_the_31():
    require("triton", torch.bfloat16)
    batch, length, dim = 149, 12545, 1152
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    assert batch * length * dim > 2**31
    parameters = make_inputs(1, 2, dim, 16, torch.bfloat16, "cuda")
    shapes = dict.fromkeys(("u", "delta", "z"), (batch, length, dim)) | dict.fromkeys("BC", (batch, length, 1, 16))
    tokens = {name: torch.randn(shape, device="cuda", dtype=torch.bfloat16) for name, shape in shapes.items()}
    with torch.no_grad():
        out = bidirectional_scan(**parameters | tokens, backend="triton")[-1:].clone()
        last = {name: tensor[-1:] for name, tensor in tokens.items()}
        alone = bidirectional_scan(**parameters | last, backend="triton")
    assert alone.isfinite().all() and torch.equal(out, alone)


def test_every_tile_gives_the_same():
    require("triton")
    from mamba.mamba_ssm.ops.triton import launching, selective_scan

    inputs = {name: t.detach().cuda() for name, t in scan_inputs(2, 197, 96, 16, dtype=torch.float32).items()}
    scan = selective_scan.ScanArguments(*inputs.values(), *METHOD.values())
    outs = [selective_scan.run_forward(scan, tile) for tile in launching.FORWARD_TILES]
    grads = [selective_scan.run_backward(torch.ones_like(outs[0]), scan, tile) for tile in launching.BACKWARD_TILES]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=1e-4, atol=1e-4)
    for others in grads[1:]:
        for a, b in zip(others, grads[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_gradients_of_tokens_and_gate_are_written_into_the_halves_of_a_tensor():
    require("triton")
    from mamba.mamba_ssm.ops.triton import causal_conv1d, selective_scan

    inputs = {name: t.detach().cuda() for name, t in scan_inputs(2, 197, 96, 16, dtype=torch.bfloat16).items()}
    scan, grad_out = (*inputs.values(), *METHOD.values()), torch.randn_like(inputs["u"])
    taps = torch.randn(96, 4, device="cuda")
    both = torch.full((2, 197, 192), torch.nan, dtype=torch.bfloat16, device="cuda")
    of_x, of_z = both.chunk(2, dim=-1)
    selective_scan.scan_backward(grad_out, *scan, grad_z=of_z)
    assert of_x.isnan().all()
    causal_conv1d.convolve_backward(grad_out, inputs["u"], taps, None, True, grad_x=of_x)
    assert torch.equal(of_z, selective_scan.scan_backward(grad_out, *scan)[list(inputs).index("z")])
    assert torch.equal(of_x, causal_conv1d.convolve_backward(grad_out, inputs["u"], taps, None, True)[0])


def test_the_same_to_the_bit_every_time():
    require("triton")
    inputs = {
        name: t.detach().cuda().requires_grad_()
        for name, t in scan_inputs(2, 300, 64, 16, dtype=torch.float32).items()
    }

    def step():
        out = bidirectional_scan(**inputs, backend="triton")
        return out, *torch.autograd.grad(out.sin().sum(), list(inputs.values()))

    step()
    assert all(torch.equal(a, b) for a, b in zip(step(), step(), strict=True))


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.bfloat16, 2**-6)], ids=str)
@pytest.mark.parametrize("is_rms", [True, False])
def test_fused_addition_and_norm(is_rms, dtype, limit):
    generator = torch.Generator().manual_seed(0)
    hidden, residual = (torch.randn(2, 33, 192, generator=generator) for _ in range(2))
    weight, bias = torch.rand(192, generator=generator), torch.rand(192, generator=generator)
    given = (hidden.to(dtype), residual, weight, None if is_rms else bias)
    results = []
    for device in ("cpu", "cuda"):
        moved = [None if t is None else t.to(device).requires_grad_() for t in given]
        normed, total = add_norm(*moved, 1e-5, is_rms)
        grads = torch.autograd.grad((normed.sin() + total.cos()).sum(), [t for t in moved if t is not None])
        results.append([t.cpu() for t in (normed, total, *grads)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=limit, atol=limit)


def small_model(**settings):
    torch.manual_seed(0)
    return VideoMambaPro(
        img_size=32, num_frames=2, num_classes=5, embed_dim=64, depth=2, drop_path_rate=0.0, **settings
    ).cuda()


def test_the_model_gives_what_it_gives_on_the_cpu():
    model, clips = small_model().eval(), torch.randn(2, 3, 2, 32, 32)
    with torch.no_grad():
        got = model(clips.cuda()).cpu()
        torch.testing.assert_close(got, model.cpu()(clips), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("settings", [{}, dict(bimamba_type="v2"), dict(scan_input="raw")], ids=str)
def test_gradients_of_the_model_are_those_of_the_cpu(settings, bf16):
    model, clips = small_model(**settings), torch.randn(2, 3, 2, 32, 32)

    def gradients(device):
        with torch.autocast(device, torch.bfloat16, enabled=bf16 and device == "cuda"):
            out = model.to(device)(clips.to(device)).float()
        return torch.autograd.grad(out.sin().sum(), list(model.parameters()))

    found, expected = gradients("cuda"), gradients("cpu")
    for (name, parameter), a, b in zip(model.named_parameters(), found, expected, strict=True):
        assert a.dtype == parameter.dtype and a.shape == parameter.shape
        assert (a.cpu() - b).norm() <= (0.25 if bf16 else 0.01) * b.norm() + 1e-4, name


def test_torch_compile_of_the_model():
    model, clips = small_model(), torch.randn(2, 3, 2, 32, 32, device="cuda")
    expected = model(clips)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(clips), expected, rtol=1e-3, atol=1e-3)
    compiled(clips).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_training_steps_in_bfloat16_lower_the_loss():
    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    clips, labels = torch.randn(4, 3, 2, 32, 32, device="cuda"), torch.tensor([0, 1, 2, 3], device="cuda")
    losses = []
    for _ in range(40):
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("mode", MODES)
def test_clips_finished_on_the_device_are_those_of_the_cpu_but_for_the_noise(mode):
    rng = np.random.default_rng(0)
    clips = torch.randint(0, 256, (8, 3, 4, 64, 64), dtype=torch.uint8)
    boxes = torch.stack([RandomErasing(1.0, mode, 2).draw(64, 64, rng) for _ in clips])
    batch = {"clips": clips.pin_memory(), "boxes": boxes.pin_memory()}
    on_cpu, state = clips_on("cpu", batch), torch.cuda.get_rng_state()
    found = clips_on("cuda", batch)
    assert found.is_cuda and torch.equal(state, torch.cuda.get_rng_state())
    torch.cuda.manual_seed(1234)
    assert torch.equal(found, clips_on("cuda", batch)), "the boxes' seeds alone make the noise"
    erased = torch.zeros(8, 1, 1, 64, 64, dtype=torch.bool)
    for i, of_clip in enumerate(boxes.tolist()):
        for top, left, height, width, _, _ in of_clip:
            erased[i, ..., top : top + height, left : left + width] = True
    erased, found = erased.expand_as(found), found.cpu()
    torch.testing.assert_close(found[~erased], on_cpu[~erased], rtol=0, atol=1e-6)
    if mode == "const":
        assert (found[erased] == 0).all()
    elif mode == "pixel":
        assert abs(found[erased].mean()) < 0.05 and abs(found[erased].std() - 1) < 0.05
    else:
        assert len(found[erased].unique()) == len(on_cpu[erased].unique())


def graph_run(*flags, graphed, **options):
    """Train 10 steps on the GPU; return the final state and the logged scalars of each step."""
    from tests.test_cuda_graph import run  # needs all that a run needs, unlike the other tests here

    return run("--lr", "0.002", *flags, graphed=graphed, device="cuda", **options)


def model_of_tiny_clips():
    return VideoMambaPro(
        img_size=8, patch_size=4, num_frames=2, num_classes=3, embed_dim=64, depth=2, drop_path_rate=0.0
    )


@pytest.mark.parametrize("flags", [(), ("--bf16",), ("--update_freq", "2", "--model_ema_warmup")], ids=str)
def test_a_captured_step_trains_like_an_ordinary_one(flags, monkeypatch):
    monkeypatch.setenv("VIDEOMAMBAPRO_TRITON_TUNE", "0")
    (plain, expected), (graphed, found) = (
        graph_run(*flags, graphed=on, model=model_of_tiny_clips) for on in (False, True)
    )
    limit = 0.03 if "--bf16" in flags else 1e-3
    for step, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a["lr"] == b["lr"] and abs(a["loss"] - b["loss"]) < limit * b["loss"], step
    assert len({step["lr"] for step in found}) == len(found) == 10
    pairs = zip(graphed.ema.module.parameters(), plain.ema.module.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=0.01) for a, b in pairs)


@pytest.mark.parametrize("graphed", [False, True])
def test_a_step_that_is_not_finite_changes_nothing(graphed):
    from tests.test_cuda_graph import test_a_step_that_is_not_finite_changes_nothing as check

    check(graphed, device="cuda")


def test_replays_draw_new_random_numbers():
    _, steps = graph_run("--lr", "0", "--min_lr", "0", "--warmup_lr", "0", graphed=True, dropout=0.9, same=True)
    assert len({step["loss"] for step in steps[4:]}) > 3


@torch.no_grad()
def test_captured_forward_passes_equal_ordinary_ones_and_follow_the_weights():
    from engines.cuda_graph import WARM_UP, GraphedForward

    model = small_model().eval()
    plain = model.forward_tokens
    model.forward_tokens = GraphedForward(model, torch.device("cuda"))
    batches = torch.randn(WARM_UP + 3, 2, 3, 2, 32, 32, device="cuda")
    for scale in (1.0, 1.25):
        for weight in model.parameters():
            weight.mul_(scale)
        with torch.autocast("cuda", torch.bfloat16):
            found = [model.forward_tokens(clips) for clips in batches]
            expected = [plain(clips) for clips in batches]
        for tokens, wanted in zip(found, expected, strict=True):
            assert relative(tokens, wanted.cpu().double()) < 1e-2
