"""Lists of directions: any token order with every backend, against the definition on reordered tokens."""

import pytest
import torch

from mamba.mamba_ssm.ops.selective_scan import available_backends, bidirectional_scan, directions
from mamba.mamba_ssm.ops.selective_scan.directions import Direction, Order, scan_directions
from mamba.mamba_ssm.ops.selective_scan_interface import selective_scan_ref, selective_scan_ref_sub
from tests.test_scan_operator import scan_inputs

BACKENDS = [name for name, reason in available_backends().items() if reason == "available"]
LENGTH = 7
SHUFFLED = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(2))
LISTS = {
    "forward": [(Order.FORWARD, False)],
    "backward": [(Order.BACKWARD, True)],
    "pair": [(Order.FORWARD, False), (Order.BACKWARD, True)],
    "pair the other way round": [(Order.BACKWARD, False), (Order.FORWARD, True)],
    "three": [(Order.FORWARD, False), (Order.BACKWARD, True), (SHUFFLED, True)],
    "shuffled, then backward": [(SHUFFLED, False), (Order.BACKWARD, False)],
    "the same twice": [(Order.FORWARD, False), (Order.FORWARD, True)],
}


def definition(places, A, masked, u, delta, B, C, D, z, delta_bias):
    """Run the reference scan over reordered tokens and restore their order."""
    scan = selective_scan_ref_sub if masked else selective_scan_ref
    tokens = [t[:, places].movedim(1, -1) for t in (u, delta, B, C, z)]
    y = scan(tokens[0], tokens[1], A, tokens[2], tokens[3], D, tokens[4], delta_bias, True)
    return torch.zeros_like(u).index_copy(1, places, y.mT)


@pytest.mark.parametrize("chosen", LISTS.values(), ids=LISTS.keys())
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_direction_scans_the_tokens_in_its_order(backend, chosen):
    dtype = torch.float64 if backend in ("portable", "reference") else torch.float32
    inputs = scan_inputs(length=LENGTH, groups=2, dtype=dtype, without=("A", "A_b"))
    del inputs["A"], inputs["A_b"]
    rates = [(-torch.rand(4, 3, dtype=dtype) - 0.1).requires_grad_() for _ in chosen]
    places = {Order.FORWARD: torch.arange(LENGTH), Order.BACKWARD: torch.arange(LENGTH).flip(0)}
    wanted = sum(
        definition(places[order] if isinstance(order, Order) else order, A, masked, **inputs)
        for (order, masked), A in zip(chosen, rates, strict=True)
    )
    scans = [Direction(order, A, masked) for (order, masked), A in zip(chosen, rates, strict=True)]
    out = scan_directions(**inputs, directions=scans, backend=backend)
    tolerance = {} if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out, wanted, **tolerance)
    sources = [*inputs.values(), *rates]
    for got, want in zip(*(torch.autograd.grad(y.sin().sum(), sources) for y in (out, wanted)), strict=True):
        torch.testing.assert_close(got, want, **tolerance)


def test_the_pair_is_one_call_and_a_third_direction_one_more(monkeypatch):
    calls = []

    def counted(*args, **kwargs):
        calls.append((kwargs["A"] is not None, kwargs["A_b"] is not None))
        return bidirectional_scan(*args, **kwargs)

    monkeypatch.setattr(directions, "bidirectional_scan", counted)
    inputs = scan_inputs(length=LENGTH, without=("A", "A_b"))
    del inputs["A"], inputs["A_b"]
    rate = -torch.ones(4, 3, dtype=torch.float64)
    scan_directions(**inputs, directions=[Direction(order, rate) for order in (*Order, SHUFFLED)], backend="portable")
    assert calls == [(True, True), (True, False)]
