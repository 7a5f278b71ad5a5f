"""Every kernel compiles for the GPUs people have, without one, and within the registers it may use."""

import importlib.util
import os

import pytest
import torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]

# Bytes of a thread's stack. On the H100 for which the tiles were chosen, what runs unless
# measurement finds better spills nothing; elsewhere a little, but never inside a loop.
DEFAULT_STACK, CHOSEN_STACK = 0, 512
SHARED = 48 * 1024


@pytest.fixture(autouse=True, scope="module")
def fresh_cache(tmp_path_factory):
    """A kernel that two tests look at is compiled once, also if pytest-xdist gives them to two processes."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(shared / "triton"))
        yield


def compiled(launch, capability):
    from benchmarks.compile_report import compile_launch

    return compile_launch(launch, capability)


def check(usage, stack):
    assert usage.stack <= stack, usage
    assert usage.spills_in_loop == 0, usage
    assert usage.shared <= SHARED, usage
    assert (8 if usage.kernel == "state_rate_kernel" else 16) < usage.registers <= 255, usage


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [(90, torch.bfloat16), (90, torch.float32), (80, torch.float16), (100, torch.bfloat16)],
)
def test_what_runs_by_default_spills_nothing(capability, dtype):
    from benchmarks import compile_report
    from mamba.mamba_ssm.ops.triton import launching

    launches = compile_report.scan_launches(launching.FORWARD_TILES[0], dtype, backward=False)
    launches += compile_report.scan_launches(launching.BACKWARD_TILES[0], dtype, backward=True)
    launches += compile_report.norm_launches(dtype, backward=False)
    launches += compile_report.norm_launches(dtype, backward=True)
    launches += compile_report.convolution_launches(dtype) + compile_report.state_rate_launches()
    usages = [compiled(launch, capability) for launch in launches]
    assert {usage.kernel.split()[0] for usage in usages} == {
        "summary_kernel", "carry_kernel", "forward_kernel", "backward_kernel", "matrix_sum_kernel", "row_sum_kernel",
        "add_norm_kernel", "add_norm_backward_kernel", "convolution_kernel", "convolution_backward_kernel",
        "state_rate_kernel",
    }  # fmt: skip
    for usage in usages:
        check(usage, DEFAULT_STACK if capability == 90 else CHOSEN_STACK)


@pytest.mark.parametrize(("capability", "dtype"), [(90, torch.bfloat16), (80, torch.float16)])
def test_every_tile_that_may_be_chosen(capability, dtype):
    from benchmarks import compile_report

    launches = compile_report.all_launches(dtype)
    assert len(launches) >= 15
    for launch in launches:
        check(compiled(launch, capability), CHOSEN_STACK)


def test_spills_are_seen():
    """The check can fail: with 48 registers the backward kernel must spill, and in its loop."""
    from benchmarks import compile_report
    from mamba.mamba_ssm.ops.triton import launching

    launch = compile_report.scan_launches(launching.Tile(8, 1, 48), torch.bfloat16, backward=True)[2]
    usage = compiled(launch, 90)
    assert usage.registers <= 48
    assert usage.stack > CHOSEN_STACK
    assert usage.spills_in_loop > 0
