"""The fused addition and norm with fewer programs than rows, as on a GPU, so that a program takes several."""

import itertools

import pytest
import torch

import tests.test_add_norm as norm
from mamba.mamba_ssm.ops.triton import layer_norm


@pytest.mark.parametrize("form", norm.FORMS)
def test_rows_of_a_program_add_up(form, monkeypatch):
    monkeypatch.setattr(layer_norm, "_programs", lambda *_: 4)
    for dtype, with_residual in itertools.product((torch.float32, torch.bfloat16), (True, False)):
        norm.test_values_and_gradients("triton", (9, 21), dtype, *norm.FORMS[form], with_residual)
