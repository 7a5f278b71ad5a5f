"""Every kernel compiles for the GPUs people have, without one, and within the registers it may use."""

import contextlib
import importlib.util
import os
from unittest import mock

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
# Of these, a thread holds one element of every block, so Triton's pass `coalesce`, which gives a thread neighbouring
# elements, changes nothing. It takes 17 of the 20 s in which the largest one compiles, once per GPU and type.
ONE_ELEMENT_PER_THREAD = ("summary_kernel", "forward_kernel", "backward_kernel")


@pytest.fixture(autouse=True, scope="module")
def fresh_cache(tmp_path_factory):
    """A kernel that two tests look at is compiled once, also if pytest-xdist gives them to two processes."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(shared / "triton"))
        yield


def uncoalesced():
    """A context in which Triton compiles without its pass `coalesce`."""
    from triton._C.libtriton import passes

    return mock.patch.object(passes.ttgpuir, "add_coalesce", lambda manager: None)


def check(launch, capability, most_stack):
    from benchmarks.compile_report import compile_launch, machine_code, resources

    name = launch.kernel.__name__
    with uncoalesced() if name in ONE_ELEMENT_PER_THREAD else contextlib.nullcontext():
        registers, stack, shared = resources(machine_code(launch, capability))
        told = f"{name}, {launch.tile}, sm_{capability}: {registers} registers, stack {stack}, shared {shared}"
        assert stack <= most_stack and shared <= SHARED, told
        # Without a stack, nothing is spilled; a look at the loops takes longer than most kernels compile.
        assert stack == 0 or compile_launch(launch, capability).spills_in_loop == 0, told
    assert (8 if name == "state_rate_kernel" else 16) < registers <= 255, told


def test_the_pass_that_is_left_out_changes_nothing(tmp_path, monkeypatch):
    from benchmarks import compile_report
    from mamba.mamba_ssm.ops.triton import launching

    scan = compile_report.scan_launches(launching.FORWARD_TILES[-1], torch.bfloat16, backward=False)
    scan += compile_report.scan_launches(launching.BACKWARD_TILES[-1], torch.bfloat16, backward=True)
    scan = [launch for launch in scan if launch.kernel.__name__ in ONE_ELEMENT_PER_THREAD]
    assert {launch.kernel.__name__ for launch in scan} == set(ONE_ELEMENT_PER_THREAD)
    norm = compile_report.norm_launches(torch.bfloat16, backward=False)  # the control: several elements per thread
    codes = []
    for name, context in (("whole", contextlib.nullcontext()), ("quicker", uncoalesced())):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / name))
        with context:
            codes.append([compile_report.machine_code(launch, 90) for launch in (*scan, *norm)])
    same = [whole == quicker for whole, quicker in zip(*codes, strict=True)]
    assert same == [True] * len(scan) + [False] * len(norm)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [(90, torch.bfloat16), (90, torch.float32), (100, torch.bfloat16)],
)
def test_what_runs_by_default_spills_nothing(capability, dtype):
    from benchmarks import compile_report
    from mamba.mamba_ssm.ops.triton import launching

    launches = compile_report.scan_launches(launching.FORWARD_TILES[0], dtype, backward=False)
    launches += compile_report.scan_launches(launching.BACKWARD_TILES[0], dtype, backward=True)
    launches += compile_report.norm_launches(dtype, backward=False)
    launches += compile_report.norm_launches(dtype, backward=True)
    launches += compile_report.convolution_launches(dtype) + compile_report.state_rate_launches()
    assert {launch.kernel.__name__ for launch in launches} == {
        "summary_kernel", "carry_kernel", "forward_kernel", "backward_kernel", "matrix_sum_kernel", "row_sum_kernel",
        "add_norm_kernel", "add_norm_backward_kernel", "convolution_kernel", "convolution_backward_kernel",
        "state_rate_kernel",
    }  # fmt: skip
    for launch in launches:
        check(launch, capability, DEFAULT_STACK if capability == 90 else CHOSEN_STACK)


@pytest.mark.parametrize(("capability", "dtype"), [(90, torch.bfloat16), (80, torch.float16)])
def test_every_tile_that_may_be_chosen(capability, dtype):
    from benchmarks import compile_report

    launches = compile_report.all_launches(dtype)
    assert len(launches) >= 15
    for launch in launches:
        check(launch, capability, CHOSEN_STACK)


def test_spills_are_seen():
    """The check can fail: with 48 registers the backward kernel must spill, and in its loop."""
    from benchmarks import compile_report
    from mamba.mamba_ssm.ops.triton import launching

    launch = compile_report.scan_launches(launching.Tile(8, 1, 48), torch.bfloat16, backward=True)[2]
    with uncoalesced():
        usage = compile_report.compile_launch(launch, 90)
    assert usage.registers <= 48
    assert usage.stack > CHOSEN_STACK
    assert usage.spills_in_loop > 0
