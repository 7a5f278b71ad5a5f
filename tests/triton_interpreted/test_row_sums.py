"""Sums over rows of several tensors in one launch, against PyTorch's in float64."""

import pytest
import torch

from mamba.mamba_ssm.ops.triton import launching
from mamba.mamba_ssm.ops.triton.row_sums import sum_rows

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("rows", [0, 1, 127, 128, 129, 300])
@pytest.mark.parametrize("dim", [1, 7, 40])
def test_parts_of_different_sizes(rows, dim, together):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(rows, entries, dim, generator=generator) for entries in (5, 1, 3, 1)]
    found = [torch.empty(dim, part.shape[1]) for part in parts]
    sum_rows(list(zip(parts, found, strict=True)))
    for sums, part in zip(found, parts, strict=True):
        torch.testing.assert_close(sums.double(), part.double().sum(0).t(), rtol=1e-5, atol=1e-5)


def test_absent_parts_take_no_place_and_sums_have_their_own_type(together):
    parts, found = torch.ones(2, 3, 4, 6), torch.empty(6, 4, dtype=torch.bfloat16)  # two axes of rows
    sum_rows([(None, None), (parts, found), (None, None)])
    assert torch.equal(found, torch.full_like(found, 6.0))


def test_nothing_is_launched_for_nothing():
    with launching.recorded_launches() as launches:
        sum_rows([(None, None)])
        sum_rows([(torch.empty(3, 0), torch.empty(0))])
    assert not launches


def test_warps_add_up_program_by_program():
    parts, found = torch.arange(260.0).view(130, 2), torch.empty(2)
    sum_rows([(parts, found)])
    assert torch.equal(found, parts.sum(0))
