"""The scans of a mixer as a list of directions, each with its own token order, A and mask."""

from collections.abc import Iterator, Sequence
from enum import Enum
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mamba.mamba_ssm.ops.selective_scan.registration import bidirectional_scan


class Order(Enum):
    """The two orders without a permutation: from the first token to the last, and from the last to the first."""

    FORWARD = "forward"
    BACKWARD = "backward"


class Direction(NamedTuple):
    """One scan over the tokens.

    Attributes:
        order: An `Order`, or a permutation (length,) that lists the tokens in the order of the scan.
        A: (dim, state), negative.
        masked: Whether a token's own input is hidden from the scan.
    """

    order: Order | Tensor
    A: Tensor
    masked: bool = False


def in_order(tensor: Tensor, order: Order | Tensor, dim: int = 1) -> Tensor:
    """Arrange a tensor, whose dimension `dim` indexes tokens, in the order of a scan."""
    if order is Order.FORWARD:
        return tensor
    return tensor.flip(dim) if order is Order.BACKWARD else tensor.index_select(dim, order)


def original_order(tensor: Tensor, order: Order | Tensor, dim: int = 1) -> Tensor:
    """Invert `in_order`."""
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
    """Add up the scans in `directions` over the same tokens; the other arguments are those of `bidirectional_scan`.

    A forward scan directly followed by a backward scan is a single call of the backend, which shares their common
    parts. Any other order is a gather, a forward scan by the same backend, and a gather back.

    Returns:
        (batch, length, dim), u's type.
    """
    shared: dict[str, Any] = dict(
        D=D, delta_bias=delta_bias, delta_softplus=delta_softplus, elemental_residual=elemental_residual
    )
    outputs = []
    for forward, backward in scan_calls(directions):
        order = Order.FORWARD if forward is None else forward.order
        tokens = {name: in_order(t, order) for name, t in dict(u=u, delta=delta, B=B, C=C).items()}
        gate = None if z is None else in_order(z, order)
        A, masked = (None, False) if forward is None else (forward.A, forward.masked)
        A_b, masked_backward = (None, False) if backward is None else (backward.A, backward.masked)
        y = bidirectional_scan(
            **tokens, z=gate, A=A, A_b=A_b, masked=masked, masked_backward=masked_backward, **shared, backend=backend
        )
        outputs.append(original_order(y, order))
    return reduce(torch.add, outputs)


def scan_calls(directions: Sequence[Direction]) -> Iterator[tuple[Direction | None, Direction | None]]:
    """Yield the directions of each call: one that is not BACKWARD, and a BACKWARD one; either may be None."""
    rest = list(directions)
    while rest:
        first = None if rest[0].order is Order.BACKWARD else rest.pop(0)
        joins = rest and rest[0].order is Order.BACKWARD and (first is None or first.order is Order.FORWARD)
        yield first, rest.pop(0) if joins else None
