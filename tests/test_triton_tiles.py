"""The choice between the tiles of a kernel: by time on the GPU, not by noise, and the same on all ranks."""

import importlib.util

import pytest
import torch
import torch.distributed as dist

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from mamba.mamba_ssm.ops.triton import launching
from mamba.mamba_ssm.ops.triton.launching import Tile

FIRST, SECOND = Tile(16, 1), Tile(8, 1)


@pytest.fixture
def choose(monkeypatch):
    """Chooses between two tiles on a GPU that is not there, given their milliseconds."""
    monkeypatch.delenv(launching.TUNE_VARIABLE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)

    def choose(first, second, sizes=(8, 1569)):
        launching._fastest.clear()  # as in another process
        times = {FIRST: first, SECOND: second}
        monkeypatch.setattr(launching, "_milliseconds", lambda _, tile: times[tile])
        return launching.fastest_tile("scan", (FIRST, SECOND), sizes, torch.device("cuda", 0), None)

    yield choose
    launching._fastest.clear()


def test_a_tile_must_be_clearly_faster_than_the_first(choose):
    assert choose(1.0, 0.98) == FIRST
    assert choose(1.0, 0.96) == SECOND
    assert choose(1.0, 1.5) == FIRST


def test_nothing_is_measured_where_results_must_be_reproducible(choose, monkeypatch):
    monkeypatch.setenv(launching.TUNE_VARIABLE, "0")
    assert choose(1.0, 0.1) == FIRST


def test_ranks_agree_without_waiting_for_each_other(choose):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert choose(1.0, 0.5) == SECOND
        assert choose(1.0, 2.0) == SECOND, "what another process chose for these sizes"
        assert choose(1.0, 2.0, sizes=(2, 1569)) == FIRST, "other sizes are another question"
    finally:
        dist.destroy_process_group()


def test_a_grid_has_one_axis_so_that_no_batch_is_too_large():
    """CUDA's second and third axis end at 65,535 programs."""
    from mamba.mamba_ssm.ops.triton import selective_scan

    row = torch.empty(70_000, 4, 3, device="meta")
    matrix, rate = torch.empty(70_000, 4, 1, 2, device="meta"), torch.empty(3, 2, device="meta")
    scan = selective_scan.ScanArguments(
        row, row, rate, rate, matrix, matrix, None, None, None, True, True, False, True
    )
    with launching.recorded_launches() as launches:
        selective_scan.run_backward(row, scan, FIRST)
    assert launches[0].grid[0] >= 70_000
    assert all(size <= 65_535 for launch in launches for size in launch.grid[1:])


@pytest.mark.parametrize("tile", [Tile(32, 1), Tile(16, 2)], ids=str)
def test_a_tile_whose_numbers_do_not_fit_one_load_of_a_warp_is_refused(tile):
    from mamba.mamba_ssm.ops.triton import selective_scan

    row, matrix, rate = (torch.empty(size, device="meta") for size in ((1, 40, 3), (1, 40, 1, 2), (3, 2)))
    scan = selective_scan.ScanArguments(
        row, row, rate, rate, matrix, matrix, None, None, None, True, True, False, True
    )
    with launching.recorded_launches(), pytest.raises(ValueError, match="one warp and at most 16 tokens"):
        selective_scan.run_forward(scan, tile)
