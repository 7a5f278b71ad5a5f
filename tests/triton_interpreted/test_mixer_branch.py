"""A branch of the mixer as one autograd function, computed by the Triton kernels."""

import pytest
import torch

from mamba.mamba_ssm.modules import mamba_simple
from mamba.mamba_ssm.modules.mamba_simple import Mamba
from mamba.mamba_ssm.ops import layer_norm, mixer_branch, projection


@pytest.mark.parametrize("settings", [{}, dict(bimamba_type="v2", scan_input="raw")], ids=["v1", "v2 raw"])
def test_the_function_equals_the_steps(settings, together, monkeypatch):
    torch.manual_seed(0)
    mixer, tokens = Mamba(24, d_state=4, **settings), torch.randn(2, 19, 24, requires_grad=True)
    results = []
    for backend in ("reference", "triton"):
        mixer.backend = backend
        if backend == "triton":
            monkeypatch.setattr(mamba_simple, "computes_at_once", lambda x, backend: True)
            for module in (projection, mixer_branch, layer_norm):
                monkeypatch.setattr(module, "trains_eagerly_on_gpu", lambda x: True)
        out = mixer(tokens)
        results.append([out, *torch.autograd.grad(out.sin().sum(), [tokens, *mixer.parameters()])])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
