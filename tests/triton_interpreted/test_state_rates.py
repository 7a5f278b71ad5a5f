"""A of both directions from its logarithms in one launch, and the gradients, against PyTorch's in float64."""

import pytest
import torch

from mamba.mamba_ssm.ops.triton.state_rates import state_rates, state_rates_backward

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def check(dim, state, dtype=torch.float32, turned=False):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(dim, state, generator=generator).to(dtype) for _ in range(4)]
    logs, grads = [t.t().contiguous().t() if turned else t for t in made[:2]], [t.float() for t in made[2:]]
    exact = [log.double().requires_grad_() for log in logs]
    expected = [-torch.exp(log) for log in exact]
    found = state_rates(*logs)
    assert all(rate.dtype == torch.float32 and rate.t().is_contiguous() for rate in found), "as the kernels read it"
    of_logs = state_rates_backward(*grads, *logs)
    assert all(of_log.dtype == dtype and of_log.is_contiguous() for of_log in of_logs), "as the parameters are"
    wanted = torch.autograd.grad(expected, exact, [grad.double() for grad in grads])
    for a, b in zip((*found, *of_logs), (*expected, *wanted), strict=True):
        limit = 2**-7 if a.dtype == torch.bfloat16 else 1e-6
        torch.testing.assert_close(a.double(), b, rtol=limit, atol=0)


@pytest.mark.parametrize(("dim", "state"), [(1, 1), (5, 3), (40, 16), (3, 129)])
def test_both_directions(dim, state, together):
    check(dim, state)


def test_other_types_and_layouts(together):
    check(7, 4, torch.bfloat16)
    check(7, 4, turned=True)


def test_program_by_program():
    check(30, 4)
