"""A mixer's scans as a list of directions, each with its own order of the tokens, A and mask."""

from collections.abc import Iterator, Sequence
from enum import Enum
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mamba.mamba_ssm.ops.selective_scan.registration import bidirectional_scan


class Order(Enum):
    """The two orders that need no index: from the first token to the last, and from the last to the first."""

    FORWARD = "forward"
    BACKWARD = "backward"


class Direction(NamedTuple):
    """One scan over the tokens.

    Attributes:
        order: an `Order`, or the tokens in the order in which the scan meets them, a permutation (length,).
        A: (dim, state), negative.
        masked: whether a token's own input is hidden from it.
    """

    order: Order | Tensor
    A: Tensor
    masked: bool = False


def in_order(tensor: Tensor, order: Order | Tensor, dim: int = 1) -> Tensor:
    """Arrange `tensor`, whose dimension `dim` is the tokens, as a scan in `order` meets them."""
    if order is Order.FORWARD:
        return tensor
    return tensor.flip(dim) if order is Order.BACKWARD else tensor.index_select(dim, order)


def as_it_was(tensor: Tensor, order: Order | Tensor, dim: int = 1) -> Tensor:
    """Undo `in_order`."""
    return in_order(tensor, order if isinstance(order, Order) else torch.argsort(order), dim)


def scan_directions(
    u: Tensor,
    delta: Tensor,
    B: Tensor,
    C: Tensor,
    directions: Sequence[Direction],
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    elemental_residual: bool = True,
    backend: str | None = None,
) -> Tensor:
    """Add up the scans of `directions` over the same tokens; the other arguments are those of `bidirectional_scan`.

    A forward and a backward scan, next to each other in the list, are one call of the backend, which shares what they
    have in common. Any other order is a gather, a scan forward by the same backend, and a gather back.

    Returns:
        (batch, length, dim), u's type.
    """
    shared: dict[str, Any] = dict(
        D=D, delta_bias=delta_bias, delta_softplus=delta_softplus, elemental_residual=elemental_residual
    )
    outputs = []
    for there, back in _calls(directions):
        order = Order.FORWARD if there is None else there.order
        tokens = {name: in_order(t, order) for name, t in dict(u=u, delta=delta, B=B, C=C).items()}
        gate = None if z is None else in_order(z, order)
        A, masked = (None, False) if there is None else (there.A, there.masked)
        A_b, masked_backward = (None, False) if back is None else (back.A, back.masked)
        y = bidirectional_scan(
            **tokens, z=gate, A=A, A_b=A_b, masked=masked, masked_backward=masked_backward, **shared, backend=backend
        )
        outputs.append(as_it_was(y, order))
    return reduce(torch.add, outputs)


def _calls(directions: Sequence[Direction]) -> Iterator[tuple[Direction | None, Direction | None]]:
    """Yield what one call computes: a direction of any order but BACKWARD, and a BACKWARD one; either may be None."""
    rest = list(directions)
    while rest:
        there = None if rest[0].order is Order.BACKWARD else rest.pop(0)
        joins = rest and rest[0].order is Order.BACKWARD and (there is None or there.order is Order.FORWARD)
        yield there, rest.pop(0) if joins else None
