"""Hidden attention matrices: applied to the tokens, they yield the outputs of the reference and the model."""

import pytest
import torch

from explain import hidden_attention
from explain.hidden_attention import attention_rows, channel_matrices, summed_attention
from explain.scans import Scan, apply_scan, recorded_mixers, scans_of, scans_of_model
from mamba.mamba_ssm.ops.selective_scan.directions import Order
from mamba.mamba_ssm.ops.selective_scan_interface import selective_scan_ref, selective_scan_ref_sub
from models.videomambapro import VideoMambaPro

TOLERANCE = dict(rtol=1e-5, atol=1e-5)


def random_scan(length=19, dim=6, state=4, **switches):
    generator = torch.Generator().manual_seed(length)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    scan = Scan(
        u=draw(2, length, dim), d=draw(2, length, dim).sub(1).exp(), A=-draw(dim, state).exp(),
        B=draw(2, length, state), C=draw(2, length, state), D=draw(dim), z=draw(2, length, dim),
        elemental_residual=True, masked=False, order=Order.FORWARD,
    )  # fmt: skip
    return scan._replace(**switches)


def order_of(name, length):
    return torch.randperm(length, generator=torch.Generator().manual_seed(5)) if name == "shuffled" else Order(name)


def reference(scan):
    """The definition's output on `scan`, (batch, length, dim)."""
    places = torch.arange(scan.u.shape[1])
    if scan.order is not Order.FORWARD:
        places = places.flip(0) if scan.order is Order.BACKWARD else scan.order
    u, d, B, C, z = (None if t is None else t[:, places].mT for t in (scan.u, scan.d, scan.B, scan.C, scan.z))
    scan_fn = selective_scan_ref_sub if scan.masked else selective_scan_ref
    out = torch.empty_like(scan.u)
    out[:, places] = scan_fn(u, d, scan.A, B, C, scan.D, z, elemental_residual=scan.elemental_residual).mT
    return out


def applied(scan):
    return torch.einsum("bdts,bsd->btd", channel_matrices(scan, slice(None)), scan.u)


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("elemental_residual", [False, True])
def test_matrix_times_tokens_is_the_scan(elemental_residual, masked, order):
    scan = random_scan(elemental_residual=elemental_residual, masked=masked, order=order_of(order, 19))
    for case in (scan, scan._replace(D=None), scan._replace(z=None), scan._replace(D=None, z=None)):
        expected = reference(case)
        torch.testing.assert_close(applied(case), expected, **TOLERANCE)
        torch.testing.assert_close(apply_scan(case), expected, **TOLERANCE)


@pytest.mark.parametrize("length", [1, 2])
def test_the_shortest_sequences(length):
    for masked in (False, True):
        scan = random_scan(length, masked=masked)
        torch.testing.assert_close(applied(scan), reference(scan), **TOLERANCE)


def test_neighbours_late_in_a_long_sequence_keep_their_digits():
    """The cumulative step sizes are in the thousands there; in float32 their differences would be lost."""
    scan = random_scan(1500, dim=1, state=2)
    scan = scan._replace(d=scan.d * 4, A=torch.full_like(scan.A, -16.0))
    exact = Scan(*(t.double() if torch.is_tensor(t) else t for t in scan))
    torch.testing.assert_close(applied(scan).double(), reference(exact), **TOLERANCE)


@pytest.mark.parametrize("masked_backward", [True, False])
@pytest.mark.parametrize("elemental_residual", [True, False])
@pytest.mark.parametrize("bimamba_type", ["v1", "v2"])
def test_matrices_give_the_output_of_the_models_own_mixers(bimamba_type, elemental_residual, masked_backward):
    torch.manual_seed(0)
    model = VideoMambaPro(
        img_size=32, patch_size=16, depth=2, embed_dim=32, num_classes=5, num_frames=4, dt_init="mamba",
        bimamba_type=bimamba_type, elemental_residual=elemental_residual, masked_backward=masked_backward,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        clips = torch.randn(2, 3, 4, 32, 32)
        with recorded_mixers(model) as record:
            model(clips)
        both = scans_of_model(model, clips)
        for layer, hidden, output, scans in zip(model.layers, *record.values(), both, strict=True):
            mixed = layer.mixer.out_proj(sum(applied(scan) for scan in scans))
            assert output.abs().max() > 0.1
            torch.testing.assert_close(mixed, output, **TOLERANCE)
            for ours, again in zip(scans, scans_of(layer.mixer, hidden), strict=True):
                torch.testing.assert_close(ours.u, again.u)


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_rows_and_sums_are_those_of_the_matrices(order, monkeypatch):
    for masked in (False, True):
        scan = random_scan(11, dim=5, masked=masked, order=order_of(order, 11))
        matrices = channel_matrices(scan, slice(None))
        for token in (0, 4, 10):
            torch.testing.assert_close(attention_rows(scan, token), matrices[:, :, token].mT, **TOLERANCE)
        # two channels at a time
        monkeypatch.setattr(hidden_attention, "CHUNK_ELEMENTS", 2 * 2 * 11 * 11)
        torch.testing.assert_close(summed_attention(scan), matrices.sum(1))
        torch.testing.assert_close(summed_attention(scan, absolute=True), matrices.abs().sum(1))
        reading, read = torch.randn(2, 11, 5), torch.randn(2, 11, 5)
        expected = torch.einsum("btd,bdts,bsd->bts", reading, matrices, read)
        torch.testing.assert_close(summed_attention(scan, reading=reading, read=read), expected, **TOLERANCE)


def test_the_matrices_of_all_channels_are_never_held_at_once():
    """The largest tensor of a sum stays below CHUNK_ELEMENTS, though the matrices of all channels are far above."""
    scan = random_scan(400, dim=128, state=2)
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend([out.numel()] if torch.is_tensor(out) else [])
            return out

    with Watch():
        summed_attention(scan, absolute=True)
    assert max(sizes) <= hidden_attention.CHUNK_ELEMENTS < 2 * 128 * 400 * 400
