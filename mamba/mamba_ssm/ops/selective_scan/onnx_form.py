"""The scan in ONNX's standard operators: a loop over tokens (`Scan`) for each direction, whatever the length.

`TRANSLATIONS` is for `torch.onnx.export(..., custom_translation_table=TRANSLATIONS, opset_version=OPSET)`. Needs
onnxscript. Export a model whose backend is "portable": its convolution is made of PyTorch's own operations.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir
import torch
from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from mamba.mamba_ssm.ops.selective_scan import registration  # noqa: F401  (registers the operator)

OPSET = 18
_DOMAIN = Opset("videomambapro", 1)
_LAST_AXIS = [-1]


@script(_DOMAIN, default_opset=op)
def carried_scan(
    initial: FLOAT, A: FLOAT, d: FLOAT, x: FLOAT, B: FLOAT, C: FLOAT, ins: Sequence[int], outs: Sequence[int]
) -> FLOAT:
    """<C_t, exp(d_t A) h_{t-1}> of h_t = exp(d_t A) h_{t-1} + x_t B_t: what each token reads of those before it.

    Shapes: initial (batch, dim, state); A (dim, state); d, x and the result (batch, length, dim, 1); B (batch, length,
    1, state); C (batch, length, state, 1). ins, outs: direction of the four inputs and of the output, 1 for backward.
    """

    @graph()
    def step(h, d_t, x_t, B_t, C_t):
        carried = op.Exp(d_t * A) * h
        read = op.MatMul(carried, C_t)
        following = carried + x_t * B_t
        return following, read

    _, read = op.Scan(
        initial,
        d,
        x,
        B,
        C,
        body=step,
        num_scan_inputs=4,
        scan_input_axes=[1, 1, 1, 1],
        scan_output_axes=[1],
        scan_input_directions=ins,
        scan_output_directions=outs,
    )
    return read


def translate_scan(
    u, delta, A, A_b, B, C, D, z, delta_bias,
    delta_softplus, elemental_residual, masked, masked_backward, backend, keep_states,
):  # fmt: skip
    """`videomambapro::bidirectional_scan`, arguments as there, in ONNX's operators; the states are left empty.

    Raises:
        ValueError: B and C have several groups, which no model here has.
    """
    if B.shape[2] != 1:
        raise ValueError(f"the ONNX form of the scan has one group of B and C, not {B.shape[2]}")
    length, state = u.shape[1], B.shape[3]
    d = delta if delta_bias is None else op.Add(delta, delta_bias)
    d = op.Softplus(d) if delta_softplus else d
    x = op.Unsqueeze(op.Mul(d, u), _LAST_AXIS)
    C = op.Transpose(C, perm=[0, 1, 3, 2])
    own = op.Mul(x, op.MatMul(B, C))  # what a token reads of itself, (batch, length, dim, 1)
    d = op.Unsqueeze(d, _LAST_AXIS)
    total = None
    for A_one, hidden, back in ((A, masked, 0), (A_b, masked_backward, 1)):
        if A_one is None:
            continue
        first = back * (length - 1)
        fill = np.full(state, float(elemental_residual), np.float32)
        start = op.Transpose(op.Slice(u, [first], [first + 1], [1]), perm=[0, 2, 1])
        read = carried_scan(op.Mul(start, _constant(fill)), A_one, d, x, B, C, ins=[back] * 4, outs=[back])
        read = op.Mul(read, _constant(_all_but(first, length))) if hidden else op.Add(read, own)
        read = op.Squeeze(read, _LAST_AXIS)
        read = read if D is None else op.Add(read, op.Mul(u, D))
        total = read if total is None else op.Add(total, read)
    out = total if z is None else op.Mul(total, op.Mul(z, op.Sigmoid(z)))
    return out, _constant(np.zeros(0, np.float32))


TRANSLATIONS = {torch.ops.videomambapro.bidirectional_scan.default: translate_scan}


def _all_but(place: int, length: int) -> np.ndarray:
    """Ones (length, 1, 1) with a zero at `place`: a masked direction reads nothing at its first token."""
    ones = np.ones((length, 1, 1), np.float32)
    ones[place] = 0
    return ones


def _constant(values: np.ndarray):
    return op.Constant(value=onnx_ir.tensor(values))
