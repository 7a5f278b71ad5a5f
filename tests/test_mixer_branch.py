"""A branch of the mixer as one autograd function equals its steps, keeps less and launches less."""

import importlib.util

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from mamba.mamba_ssm.modules import mamba_simple
from mamba.mamba_ssm.modules.mamba_simple import Mamba
from mamba.mamba_ssm.ops import layer_norm, mixer_branch, projection
from mamba.mamba_ssm.ops.mixer_branch import computes_at_once
from mamba.mamba_ssm.ops.selective_scan import cpu
from models.blocks import Block

METHODS = {
    "v1": {},
    "v2": dict(bimamba_type="v2"),
    "raw": dict(scan_input="raw"),
    "v2 raw": dict(bimamba_type="v2", scan_input="raw"),
    "plain": dict(elemental_residual=False, masked_backward=False, conv_bias=False),
    "odd": dict(d_state=5, dt_rank=3),
}

needs_kernel = pytest.mark.skipif(
    cpu.unavailable_reason(torch.device("cpu"), torch.float32) is not None, reason="no C++ kernel here"
)


@pytest.fixture
def at_once(monkeypatch):
    """Switch the function on for the C++ kernel; it is meant for GPUs. Call it with False for the steps."""

    def switch(on):
        monkeypatch.setattr(mamba_simple, "computes_at_once", lambda x, backend: on)
        for module in (projection, mixer_branch, layer_norm):
            monkeypatch.setattr(module, "trains_eagerly_on_gpu", lambda x: on)
        for name, function in (("state_rates", rates), ("state_rates_backward", rate_gradients)):
            monkeypatch.setattr(cpu, name, function, raising=False)  # which only Triton's backend has

    return switch


def rates(*logs):
    return tuple(-log.float().exp() for log in logs)


def rate_gradients(grad, grad_b, *logs):
    given = zip((grad, grad_b), rates(*logs), logs, strict=True)
    return tuple((grad * rate).to(log.dtype) for grad, rate, log in given)


def outputs(mixer, tokens, run=lambda mixer, tokens: mixer(tokens)):
    """The output and all gradients."""
    tokens = tokens.clone().requires_grad_()
    out = run(mixer, tokens)
    names = ["tokens", *(name for name, _ in mixer.named_parameters())]
    grads = torch.autograd.grad(out.float().sin().sum(), [tokens, *mixer.parameters()])
    return {"out": out} | dict(zip(names, grads, strict=True))


def mixer_and_tokens(**settings):
    torch.manual_seed(0)
    mixer = Mamba(32, backend="cpu", **settings)
    torch.nn.init.normal_(mixer.D)
    return mixer, torch.randn(2, 37, 32)


@needs_kernel
@pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)
def test_the_function_equals_the_steps(settings, at_once):
    mixer, tokens = mixer_and_tokens(**settings)
    results = []
    for on in (False, True):
        at_once(on)
        results.append(outputs(mixer, tokens))
    for name, expected in results[0].items():
        found = results[1][name]
        assert found.shape == expected.shape and found.dtype == expected.dtype, name
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item(), msg=name)


@needs_kernel
def test_under_autocast_the_function_is_as_exact_as_the_steps(at_once):
    mixer, tokens = mixer_and_tokens()

    def run(mixer, tokens):
        with torch.autocast("cpu", torch.bfloat16):
            return mixer(tokens)

    exact = outputs(mixer, tokens)
    errors = []
    for on in (False, True):
        at_once(on)
        found = outputs(mixer, tokens, run)
        assert all(found[name].dtype == torch.float32 for name in exact if name != "out")
        errors.append({name: (found[name] - exact[name]).norm() / exact[name].norm() for name in exact})
    for name in exact:
        assert errors[1][name] < 1.3 * errors[0][name] + 1e-4, (name, errors[0][name], errors[1][name])
        assert errors[1][name] < 0.05, name


@needs_kernel
def test_gradient_checkpointing_changes_nothing(at_once):
    at_once(True)
    mixer, tokens = mixer_and_tokens()
    expected = outputs(mixer, tokens)
    found = outputs(mixer, tokens, lambda mixer, tokens: checkpoint(mixer, tokens, use_reentrant=False))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@needs_kernel
def test_neither_the_convolution_nor_the_step_sizes_are_kept(at_once):
    mixer, tokens = mixer_and_tokens()[0], torch.randn(2, 500, 32)
    kept = []
    for on in (False, True):
        at_once(on)
        storages = {}

        def keep(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = mixer(tokens)
        kept.append(sum(storages.values()))
        del out
    one = 2 * 500 * mixer.d_inner * 4
    assert kept[0] - kept[1] > 1.8 * one


@needs_kernel
def test_a_subclass_that_changes_a_step_is_heeded(at_once):
    class Silent(Mamba):
        def scan(self, u, delta, B, C, z, branch):
            return 0 * super().scan(u, delta, B, C, z, branch)

    at_once(True)
    torch.manual_seed(0)
    mixer = Silent(32, backend="cpu")
    assert not mixer(torch.randn(1, 5, 32)).any()
    mixer.A_b_log = mixer.A_log
    assert not mixer._is_standard(mixer.branches()[0])
    assert Mamba(32, backend="cpu")._is_standard(mixer.branches()[0])


def test_only_eager_training_on_a_gpu_uses_it():
    class OnGPU(torch.Tensor):
        is_cuda = True

    assert not computes_at_once(torch.randn(2), "triton")
    assert not computes_at_once(torch.randn(2).as_subclass(OnGPU), "triton"), "fake tensors have no kernels"


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rms_norm", [True, False])
def test_addition_and_norm_are_the_same_without_the_dispatcher(rms_norm, dtype, at_once):
    torch.manual_seed(0)
    block = Block(32, torch.nn.Identity(), 0.0, rms_norm, backend="cpu")
    given = [torch.randn(2, 5, 32, dtype=kind, requires_grad=True) for kind in (dtype, torch.float32)]
    results = []
    for on in (False, True):
        at_once(on)
        hidden, residual = block(*given)
        leaves = [*given, *block.parameters()]
        results.append([hidden, residual, *torch.autograd.grad(hidden.sin().sum() + residual.cos().sum(), leaves)])
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*results, strict=True))


WITHOUT_KERNEL = {
    *("view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "split", "split_with_sizes"),
    *("unsqueeze", "squeeze", "detach", "alias", "unbind", "as_strided"),
    *("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided"),
}


class KernelCount(TorchDispatchMode):
    """Counts the calls of PyTorch operations that start a kernel on a GPU."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        if name not in WITHOUT_KERNEL:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def count_launches(block):
    """Launches of a training step of one layer in bfloat16, with Triton's only recorded: (forward pass, both)."""
    from mamba.mamba_ssm.ops.triton.launching import recorded_launches

    hidden, residual = torch.randn(2, 37, 192, dtype=torch.bfloat16), torch.randn(2, 37, 192)
    given = [hidden.requires_grad_(), residual.requires_grad_()]
    with recorded_launches() as launches, KernelCount() as count:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = block(*given)
        forward = len(launches) + len(count.names)
        torch.autograd.grad(outputs, [*given, *block.parameters()], [torch.empty_like(out) for out in outputs])
    return forward, len(launches) + len(count.names)


def one_launch(grad, tokens, dtype):
    """Stand for a product whose result has another type, which is one kernel on a GPU and two on the CPU."""
    return grad.new_zeros(grad.shape[-1], tokens.shape[-1], dtype=dtype)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_launches_of_a_layer_in_training(at_once, monkeypatch):
    """An H100 counted 24 and 96 when every operator was called by itself."""
    for module in (mamba_simple, mixer_branch, layer_norm):
        monkeypatch.setattr(module, "choose_backend", lambda *_: "triton")
    for module in (projection, mixer_branch):
        monkeypatch.setattr(module, "weight_gradient", one_launch)
    at_once(True)
    block = Block(192, Mamba(192), 0.0, True)
    count_launches(block)  # zeros that are made once
    forward, both = count_launches(block)
    assert (forward, both) == (13, 34)
