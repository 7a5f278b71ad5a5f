"""The block functions against the published code, and the fast forms against the references, gradients included."""

import inspect

import pytest
import torch

from mamba.mamba_ssm.ops import selective_scan_interface
from mamba.mamba_ssm.ops.selective_scan import available_backends
from mamba.mamba_ssm.ops.selective_scan_interface import (
    bimamba_inner_fn,
    bimamba_inner_ref,
    mamba_inner_fn,
    mamba_inner_fn_no_out_proj,
    mamba_inner_ref,
)
from tests.goldens import golden_cases, golden_tensors

BACKENDS = [name for name, reason in available_backends().items() if reason == "available"]
BLOCK = ("xz", "conv1d_weight", "conv1d_bias", "x_proj_weight", "delta_proj_weight", "out_proj_weight")


def block_inputs(dtype=torch.float32, case="c00"):
    golden = golden_tensors("bimamba_inner", case)
    names = (*BLOCK, "A", "A_b", "D", "delta_bias")
    inputs = {name: golden[name].to(dtype).requires_grad_() for name in names}
    return inputs | {"out_proj_bias": None}, golden


@pytest.mark.parametrize("scan_input", ["conv", "raw"])
@pytest.mark.parametrize("case", golden_cases("bimamba_inner"), ids=lambda case: case["case"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_published_block(backend, case, scan_input):
    inputs, golden = block_inputs(case=case["case"])
    out = bimamba_inner_fn(**inputs, scan_input=scan_input, backend=backend)
    torch.testing.assert_close(out, golden[f"out_{scan_input}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masked_backward", [True, False])
@pytest.mark.parametrize("elemental_residual", [True, False])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_block_gradients_equal_the_reference(backend, elemental_residual, masked_backward):
    dtype = torch.float64 if backend == "portable" else torch.float32
    tolerance = dict(rtol=1e-9, atol=1e-10) if dtype == torch.float64 else dict(rtol=1e-3, atol=1e-5)
    switches = dict(elemental_residual=elemental_residual, masked_backward=masked_backward)
    results = []
    for block in (lambda **kw: bimamba_inner_fn(**kw, backend=backend), bimamba_inner_ref):
        inputs, _ = block_inputs(dtype)
        out = block(**inputs, **switches)
        out.sin().sum().backward()
        results.append({name: t.grad for name, t in inputs.items() if t is not None} | {"out": out.detach()})
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], **tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "reference"])
def test_one_direction_equals_the_reference(backend, masked):
    inputs, _ = block_inputs()
    del inputs["A_b"]
    expected = mamba_inner_ref(**inputs, masked=masked)
    out = mamba_inner_fn(**inputs, masked=masked, backend=backend)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    without = {k: v for k, v in inputs.items() if not k.startswith("out_proj")}
    y = mamba_inner_fn_no_out_proj(**without, masked=masked, backend=backend)
    torch.testing.assert_close(y.transpose(1, 2) @ inputs["out_proj_weight"].T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_constant_matrices_and_projection_biases(backend):
    inputs, _ = block_inputs(torch.float32)
    rank, state = inputs["delta_proj_weight"].shape[1], inputs["A"].shape[1]
    generator = torch.Generator().manual_seed(3)
    bias = torch.randn(state, generator=generator)
    constant = torch.randn(*inputs["A"].shape, generator=generator)
    only_delta_and_C = inputs | {"x_proj_weight": inputs["x_proj_weight"][: rank + state]}
    out = bimamba_inner_fn(**only_delta_and_C, B=constant, C_proj_bias=bias, backend=backend)
    torch.testing.assert_close(
        out, bimamba_inner_ref(**only_delta_and_C, B=constant, C_proj_bias=bias), rtol=1e-4, atol=1e-5
    )


def test_unknown_scan_input_is_named():
    inputs, _ = block_inputs()
    with pytest.raises(ValueError, match="scan_input must be one of"):
        bimamba_inner_fn(**inputs, scan_input="convolved")


SCAN = "u delta A B C D z delta_bias delta_softplus return_last_state"
WEIGHTS, PROJECTION = "xz conv1d_weight conv1d_bias x_proj_weight delta_proj_weight", "out_proj_weight out_proj_bias"
REST = "B C D delta_bias B_proj_bias C_proj_bias delta_softplus"
UPSTREAM = {
    **dict.fromkeys(("selective_scan_fn", "selective_scan_ref", "selective_scan_ref_sub"), SCAN),
    "mamba_inner_fn_no_out_proj": f"{WEIGHTS} A {REST}",
    **dict.fromkeys(("mamba_inner_fn", "mamba_inner_ref"), f"{WEIGHTS} {PROJECTION} A {REST}"),
    **dict.fromkeys(("bimamba_inner_fn", "bimamba_inner_ref"), f"{WEIGHTS} {PROJECTION} A A_b {REST}"),
}


@pytest.mark.parametrize("name", UPSTREAM)
def test_names_and_arguments_are_those_of_mamba_ssm(name):
    parameters = inspect.signature(getattr(selective_scan_interface, name)).parameters.values()
    assert [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == UPSTREAM[name].split()
