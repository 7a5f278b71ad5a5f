"""Inference in slices of channels: the same numbers as with gradients, and a peak of memory that is counted."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mamba.mamba_ssm.modules.mamba_simple import Mamba
from mamba.mamba_ssm.ops import mixer_slices
from mamba.mamba_ssm.ops.selective_scan import cpu
from mamba.mamba_ssm.ops.selective_scan.registration import bidirectional_scan, scan_onto_input
from models import VideoMambaPro

METHODS = {
    "v1": {},
    "v2": dict(bimamba_type="v2"),
    "raw": dict(scan_input="raw"),
    "plain": dict(elemental_residual=False, masked_backward=False, conv_bias=False),
    "odd": dict(d_state=5, dt_rank=3, bias=True),
}

pytestmark = pytest.mark.skipif(
    cpu.unavailable_reason(torch.device("cpu"), torch.float32) is not None, reason="no C++ kernel here"
)


class PeakMemory(TorchDispatchMode):
    """Sums the bytes of all tensors that operations returned and that are still alive, after each operation."""

    def __init__(self):
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        for tensor in tree_leaves(out):
            if torch.is_tensor(tensor) and tensor.untyped_storage()._cdata not in given:
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def mixer_and_tokens(**settings):
    torch.manual_seed(0)
    mixer = Mamba(160, backend="cpu", **settings)  # 320 channels: slices of 192 and 128
    torch.nn.init.normal_(mixer.D)
    return mixer, torch.randn(2, 45, 160)


@pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)
def test_inference_gives_the_numbers_of_training(settings):
    mixer, tokens = mixer_and_tokens(**settings)
    expected = mixer(tokens)
    with torch.no_grad():
        found = mixer(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])  # the C++ kernel has no float16
def test_under_autocast_too(dtype):
    mixer, tokens = mixer_and_tokens()
    mixer.backend = None
    exact = mixer(tokens)
    with torch.autocast("cpu", dtype):
        expected = mixer(tokens)
        with torch.no_grad():
            found = mixer(tokens)
    assert found.dtype == expected.dtype == dtype
    assert (found - exact).norm() < 1.1 * (expected - exact).norm()


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize(("batch", "dim"), [(1, 384), (2, 768), (1, 100)])
def test_slices_cover_all_channels_and_start_at_whole_blocks(threads, batch, dim, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    slices = list(mixer_slices._slices(torch.empty(batch, 3, dim)))
    assert torch.cat([torch.arange(dim)[channels] for channels in slices]).tolist() == list(range(dim))
    assert all(channels.start % mixer_slices.BLOCK == 0 for channels in slices)


@pytest.mark.parametrize("directions", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scan_that_overwrites_its_input_equals_one_that_does_not(directions, dtype):
    torch.manual_seed(0)
    u, delta, z = (torch.randn(2, 77, 70, dtype=dtype) for _ in range(3))
    B, C = (torch.randn(2, 77, 1, 6, dtype=dtype) for _ in range(2))
    A, A_b = (-torch.rand(70, 6) if given else None for given in directions)
    D, bias = torch.randn(70), torch.randn(70)
    expected = bidirectional_scan(u, delta, A, A_b, B, C, D, z, bias, backend="cpu")
    rows = torch.full((2, 77, 80), 7.0, dtype=dtype)
    rows[..., 5:75] = u
    scan_onto_input(rows[..., 5:75], delta, A, A_b, B, C, D, z, bias, True, True, False, True, "cpu")
    assert torch.equal(rows[..., 5:75], expected)
    assert (rows[..., :5] == 7).all() and (rows[..., 75:] == 7).all()


def test_the_operator_is_registered_as_pytorch_expects():
    given = [torch.randn(1, 5, 8) for _ in range(2)]
    matrices = [torch.randn(1, 5, 1, 4) for _ in range(2)]
    rates = [-torch.rand(8, 4) for _ in range(2)]
    arguments = (*given, *rates, *matrices, torch.randn(8), None, torch.randn(8), True, True, False, True, "cpu")
    torch.library.opcheck(scan_onto_input, arguments)


def test_channels_that_are_not_contiguous_are_not_overwritten():
    u, delta = torch.randn(1, 4, 5).mT, torch.randn(1, 5, 4)
    matrices = (torch.randn(1, 5, 1, 4), torch.randn(1, 5, 1, 4))
    with pytest.raises(ValueError, match="contiguous"):
        cpu.forward_onto_input(u, delta, -torch.rand(4, 4), None, *matrices, None, None, None, True, True, True, True)


@pytest.mark.parametrize("shared", ["delta", "B", "C", "z"])
def test_an_input_in_the_memory_that_is_overwritten_is_refused(shared):
    given = {"u": torch.randn(1, 5, 4), "delta": torch.randn(1, 5, 4), "A": -torch.rand(4, 4), "A_b": None}
    given |= {"B": torch.randn(1, 5, 1, 4), "C": torch.randn(1, 5, 1, 4), "D": None, "z": None, "delta_bias": None}
    given[shared] = given["u"].view(1, 5, 1, 4) if shared in "BC" else given["u"]
    before = given["u"].clone()
    with pytest.raises(ValueError, match=f"{shared} is in the same memory"):
        scan_onto_input(*given.values(), True, True, False, True, "cpu")
    assert torch.equal(given["u"], before)


@pytest.mark.parametrize("u", [torch.zeros(1, 1, 4).expand(1, 5, 4), torch.zeros(8).as_strided((1, 5, 4), (20, 1, 1))])
def test_an_input_whose_own_elements_overlap_is_not_overwritten(u):
    delta, B, C = torch.randn(1, 5, 4), torch.randn(1, 5, 1, 4), torch.randn(1, 5, 1, 4)
    with pytest.raises(ValueError, match="elements overlap"):
        scan_onto_input(u, delta, -torch.rand(4, 4), None, B, C, None, None, None, True, True, False, True, "cpu")


def test_no_tokens_are_refused_with_and_without_gradients():
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients), pytest.raises(ValueError, match="length >= 1"):
            Mamba(32, backend="cpu")(torch.zeros(2, 0, 32))


def test_float64_is_not_changed_by_autocast():
    mixer, tokens = mixer_and_tokens()
    mixer.backend = None
    mixer, tokens = mixer.double(), tokens.double()
    expected = mixer(tokens)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mixer(tokens), expected)


def test_shapes_are_known_without_memory():
    with torch.no_grad():
        assert Mamba(32).to("meta")(torch.empty(2, 5, 32, device="meta")).shape == (2, 5, 32)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_maps_a_mixer():
    mixer, tokens = mixer_and_tokens()
    with torch.no_grad():
        found = torch.func.vmap(mixer)(tokens.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(found, mixer(tokens), rtol=1e-5, atol=1e-5)


def test_hooks_of_the_input_projection_are_called():
    mixer, tokens = mixer_and_tokens()
    seen = []
    mixer.in_proj.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    with torch.no_grad():
        mixer(tokens)
    assert seen == [(2, 45, 640)]


def test_peak_memory_of_a_mixer():
    """Tokens before and after the convolution, four times the input, are the most; step by step it is over ten."""
    mixer, tokens = Mamba(384, backend="cpu"), torch.randn(1, 600, 384)
    with torch.no_grad(), PeakMemory() as memory:
        mixer(tokens)
    rates = 2 * mixer.A_log.numel() * 4
    assert memory.peak < 4.2 * tokens.numel() * 4 + rates


def test_peak_memory_of_a_type_v2_mixer():
    mixer, tokens = Mamba(384, bimamba_type="v2", backend="cpu"), torch.randn(1, 600, 384)
    with torch.no_grad(), PeakMemory() as memory:
        mixer(tokens)
    rates = 2 * mixer.A_log.numel() * 4
    assert memory.peak < 6.3 * tokens.numel() * 4 + rates  # a second direction's convolved tokens


def test_peak_memory_of_a_model():
    """Beside the mixer: its input, the last mixer's output, and the residual stream before and after the addition."""
    model = VideoMambaPro(img_size=64, num_frames=16, num_classes=2, embed_dim=192, depth=3, backend="cpu").eval()
    clip = torch.randn(1, 3, 16, 64, 64)
    with torch.no_grad(), PeakMemory() as memory:
        model(clip)
    rates = 2 * model.layers[0].mixer.A_log.numel() * 4
    assert memory.peak < 8.7 * 257 * 192 * 4 + rates


def test_an_exported_graph_contains_only_what_other_formats_can_express():
    mixer, tokens = mixer_and_tokens(bimamba_type="v2")
    with torch.no_grad():
        nodes = torch.export.export(mixer, (tokens,)).graph.nodes
    convolutions = [n for n in nodes if n.target is torch.ops.videomambapro.causal_conv1d.default]
    assert len(convolutions) == 2
    assert not any(n.kwargs.get("reverse") or n.args[5:] == (True,) for n in convolutions)
    assert torch.ops.videomambapro.scan_onto_input.default not in {n.target for n in nodes}
