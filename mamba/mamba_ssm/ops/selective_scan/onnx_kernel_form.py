"""Express the operators of this repository in ONNX as those of mamba/csrc/onnx_operators.cpp, which call the kernels.

Pass `TRANSLATIONS` to `torch.onnx.export(..., custom_translation_table=TRANSLATIONS, opset_version=OPSET)`; this needs
onnxscript. Export a model with backend "cpu", whose convolution and norm are operators too. A session needs the
library of `onnx_library`.
"""

import numpy as np
import onnx_ir
import torch
from onnx.defs import OpSchema
from onnxscript import opset18 as op
from onnxscript.values import Op, Opset

from mamba.mamba_ssm.ops import causal_conv1d, layer_norm  # noqa: F401  (register the operators)
from mamba.mamba_ssm.ops.selective_scan import registration  # noqa: F401  (likewise)
from mamba.mamba_ssm.ops.selective_scan.onnx_library import DOMAIN, VERSION

OPSET = 18
_INT, _FLOAT = OpSchema.AttrType.INT, OpSchema.AttrType.FLOAT


def _operator(name: str, inputs: str, outputs: str, **attributes: OpSchema.AttrType) -> Op:
    """Describe an operator on float tensors; names of optional inputs end in a question mark."""
    kinds = OpSchema.FormalParameterOption
    given = [
        OpSchema.FormalParameter(
            text.rstrip("?"), "tensor(float)", param_option=kinds.Optional if text.endswith("?") else kinds.Single
        )
        for text in inputs.split()
    ]
    results = [OpSchema.FormalParameter(text, "tensor(float)") for text in outputs.split()]
    required = [OpSchema.Attribute(key, kind, required=True) for key, kind in attributes.items()]
    schema = OpSchema(name, DOMAIN, VERSION, inputs=given, outputs=results, attributes=required)
    return Op(Opset(DOMAIN, VERSION), name, schema)


_scan = _operator(
    "BidirectionalScan",
    "u delta A? A_b? B C D? z? delta_bias?",
    "out",
    delta_softplus=_INT,
    elemental_residual=_INT,
    masked=_INT,
    masked_backward=_INT,
)
_convolution = _operator("CausalConv1d", "x weight bias?", "out", silu=_INT)  # weight: (width, dim)
_add_norm = _operator("AddNorm", "hidden residual? weight bias?", "normed total", eps=_FLOAT, is_rms=_INT)


def translate_scan(
    u, delta, A, A_b, B, C, D, z, delta_bias,
    delta_softplus, elemental_residual, masked, masked_backward, backend, keep_states,
):  # fmt: skip
    """Translate `videomambapro::bidirectional_scan`; the states are left empty."""
    switches = dict(
        delta_softplus=delta_softplus,
        elemental_residual=elemental_residual,
        masked=masked,
        masked_backward=masked_backward,
    )
    attributes = {name: int(value) for name, value in switches.items()}
    out = _scan(u, delta, A, A_b, B, C, D, z, delta_bias, **attributes)
    no_states = onnx_ir.tensor(np.zeros(0, np.float32))
    return out, op.Constant(value=no_states)  # pyright: ignore[reportArgumentType]  (its own library's tensor)


def translate_convolution(x, weight, bias, silu, backend, reverse=False):
    """Translate `videomambapro::causal_conv1d`; a graph that torch.export made flips the tokens to reverse it."""
    if reverse:
        raise ValueError("the ONNX operator CausalConv1d cannot run backward in time")
    return _convolution(x, op.Transpose(weight, perm=[1, 0]), bias, silu=int(silu))


def translate_add_norm(hidden, residual, weight, bias, eps, is_rms, backend):
    """Translate `videomambapro::add_norm`."""
    return _add_norm(hidden, residual, weight, bias, eps=eps, is_rms=int(is_rms))


TRANSLATIONS = {
    torch.ops.videomambapro.bidirectional_scan.default: translate_scan,
    torch.ops.videomambapro.causal_conv1d.default: translate_convolution,
    torch.ops.videomambapro.add_norm.default: translate_add_norm,
}
