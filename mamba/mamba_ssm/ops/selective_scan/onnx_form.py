"""Express the scan in standard ONNX operators: one loop over tokens (`Scan`) per direction, for any length.

Pass `TRANSLATIONS` to `torch.onnx.export(..., custom_translation_table=TRANSLATIONS, opset_version=OPSET)`; this needs
onnxscript. Export a model with backend "portable", whose convolution consists of PyTorch operations.
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
    """Compute <C_t, exp(d_t A) h_{t-1}> for h_t = exp(d_t A) h_{t-1} + x_t B_t, the output without the token itself.

    Args:
        initial: (batch, dim, state).
        A: (dim, state).
        d: (batch, length, dim, 1).
        x: (batch, length, dim, 1).
        B: (batch, length, 1, state).
        C: (batch, length, state, 1).
        ins: Direction of the last four inputs, 1 for backward.
        outs: Direction of the output.

    Returns:
        (batch, length, dim, 1).
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
    """Translate `videomambapro::bidirectional_scan` to ONNX operators; the states are left empty.

    Raises:
        ValueError: B and C have several groups, which no model here uses.
    """
    if B.shape[2] != 1:
        raise ValueError(f"the ONNX form of the scan supports one group of B and C, not {B.shape[2]}")
    length, state = u.shape[1], B.shape[3]
    d = delta if delta_bias is None else op.Add(delta, delta_bias)
    d = op.Softplus(d) if delta_softplus else d
    x = op.Unsqueeze(op.Mul(d, u), _LAST_AXIS)
    C = op.Transpose(C, perm=[0, 1, 3, 2])
    own = op.Mul(x, op.MatMul(B, C))  # contribution of the token itself, (batch, length, dim, 1)
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
    """Return ones (length, 1, 1) with a zero at `place`, where a masked direction reads nothing."""
    ones = np.ones((length, 1, 1), np.float32)
    ones[place] = 0
    return ones


def _constant(values: np.ndarray):
    return op.Constant(value=onnx_ir.tensor(values))
