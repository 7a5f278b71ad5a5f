"""The scan benchmark without a GPU: bytes, stock kernel, GPU events, and refusing wrong results."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from benchmarks import candidates, devices, scan, timing
from mamba.mamba_ssm.ops.selective_scan import stock_packages
from mamba.mamba_ssm.ops.selective_scan_interface import selective_scan_ref
from tests.stock_standins import install
from tests.test_scan_operator import reference, scan_inputs

ROOT = Path(__file__).parent.parent
TINY = ["--length", "6", "--dim", "8", "--state", "4", "--rounds", "1"]


def test_bytes_that_must_move_are_those_counted_by_hand():
    inputs = candidates.make_inputs(2, 3, 4, 5, torch.bfloat16)
    tokens, matrices, state, channels = 2 * 3 * 4 * 2, 2 * 3 * 5 * 2, 4 * 5 * 4, 4 * 4
    read = 3 * tokens + 2 * matrices + 2 * state + 2 * channels  # u, delta, z; B, C; A, A_b; D, delta_bias
    assert read == 456
    forward = 456 + 48
    assert candidates.moved_bytes(inputs) == {"forward": forward, "training": forward + 456 + 48 + 456}


class StandInFusedScan(types.ModuleType):
    """mamba-ssm's differentiable scan in plain PyTorch, with the compiled one's restrictions on types and strides."""

    residual = False

    def selective_scan_fn(self, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        assert delta_softplus
        assert all(t.stride(-1) == 1 and t.dtype == u.dtype for t in (u, delta, B, C, z))
        wanted = torch.float64 if u.dtype == torch.float64 else torch.float32
        assert all(t.stride(-1) == 1 and t.dtype == wanted for t in (A, D, delta_bias))
        return selective_scan_ref(u, delta, A, B, C, D, z, delta_bias, True, elemental_residual=self.residual)


@pytest.fixture
def stand_in(monkeypatch):
    module = StandInFusedScan(stock_packages.SCAN_MODULE)
    install(monkeypatch, stock_packages.SCAN_MODULE, module)
    stock_packages.load_extension.cache_clear()
    yield module
    stock_packages.load_extension.cache_clear()


def stock_candidates(dtype):
    found = candidates.candidates("cuda", dtype)
    return {name: found[name] for name in (candidates.STOCK_PASS, candidates.STOCK_KERNELS)}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=str)
def test_a_stock_pass_is_two_plain_scans(dtype, tolerance, stand_in):
    inputs = scan_inputs(length=9, dtype=dtype)
    plain = dict(delta_softplus=True, elemental_residual=False, masked=False, masked_backward=False)
    ahead = {**inputs, "A_b": None}, {**inputs, "A": inputs["A_b"], "A_b": None}
    expected = {
        candidates.STOCK_PASS: reference(**inputs, **plain),
        candidates.STOCK_KERNELS: sum(reference(**given, **plain) for given in ahead),
    }
    grad_out = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(3)).to(dtype)
    for name, candidate in stock_candidates(torch.float32).items():
        out, grads = scan.run(candidate.function, *scan.in_layout_of(candidate, inputs, grad_out))
        wanted = torch.autograd.grad(expected[name], list(inputs.values()), grad_out)
        for got, want in zip((out, *grads), (expected[name], *wanted), strict=True):
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", scan.TOLERANCE, ids=str)
def test_a_stock_pass_is_held_against_its_own_loop(dtype, stand_in):
    inputs, grad_out = candidates.make_inputs(2, 30, 16, 4, dtype), torch.randn(2, 30, 16).to(dtype)
    assert scan.disagreements(stock_candidates(dtype), inputs, grad_out) == []
    stand_in.residual = True
    wrong = "\n".join(scan.disagreements(stock_candidates(dtype), inputs, grad_out))
    assert "stock pass: out differs" in wrong
    assert "stock kernels: out differs" in wrong


def test_without_the_package_there_is_no_stock_pass(monkeypatch):
    monkeypatch.setitem(sys.modules, stock_packages.SCAN_MODULE, None)
    stock_packages.load_extension.cache_clear()
    found = candidates.candidates("cuda", torch.float32)
    stock_packages.load_extension.cache_clear()
    assert {"loop reference", "portable"} <= set(found)
    assert not {"cuda", "stock pass", "stock kernels"} & set(found)


class Gpu:
    """An asynchronous queue: events get their time when it reaches them, and can be read only after a wait."""

    def __init__(self, monkeypatch):
        self.now, self.waits, self.log = 0.0, 0, []
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event(self))
        monkeypatch.setattr(torch.cuda, "synchronize", self.wait)

    def wait(self):
        self.waits += 1

    def work(self, name, seconds):
        self.log.append(name)
        self.now += seconds


class Event:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self):
        self.at, self.waits = self.gpu.now, self.gpu.waits

    def elapsed_time(self, later):
        assert later.waits < self.gpu.waits, "the GPU has not come so far"
        return 1000 * (later.at - self.at)


def test_short_calls_are_queued_and_flushes_do_not_count(monkeypatch):
    gpu = Gpu(monkeypatch)
    stopwatch = devices.by_events(lambda: gpu.work("flush", 7.0))
    seconds = stopwatch(lambda: gpu.work("call", 0.0625))
    assert seconds == pytest.approx([0.0625] * (1 + devices.QUEUED_CALLS))
    assert gpu.log == ["flush", "call"] * len(seconds)
    assert gpu.waits == 2


def test_a_slow_call_is_timed_once(monkeypatch):
    gpu = Gpu(monkeypatch)
    assert devices.by_events(lambda: gpu.work("flush", 7.0))(lambda: gpu.work("call", 3.0)) == [3.0]


def test_peak_on_a_gpu_is_above_what_was_held(monkeypatch):
    memory = types.SimpleNamespace(held=100, peak=999)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: setattr(memory, "peak", memory.held))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: memory.held)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: memory.peak)
    assert devices.peak_of_call("cuda", lambda: setattr(memory, "peak", 130), "unused") == 30


@pytest.fixture
def quick(monkeypatch, capsys):
    """The whole program in this process, with short slices and small copies; peaks are asked for by the same flags."""

    def peak_of(module, *arguments):
        assert module == "benchmarks.scan"
        scan.main(list(arguments))
        return int(capsys.readouterr().out)

    monkeypatch.setattr(scan, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(timing, "SLICE_SECONDS", 0.0)
    monkeypatch.setitem(devices.COPIED_BYTES, "cpu", 1 << 20)
    monkeypatch.setattr(devices, "peak_of", peak_of)


@pytest.mark.parametrize("dtype", scan.DTYPES)
def test_the_whole_on_the_processor(dtype, quick, tmp_path, capsys):
    assert scan.main([*TINY, "--dtype", dtype, "--published", "--json", str(tmp_path / "figures.json")]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "figures.json").read_text())
    assert {"loop reference", "published loop", "portable"} <= set(found["candidates"])
    for name, row in found["candidates"].items():
        assert name in printed
        assert row["forward_ms"] > 0 < row["training_ms"]
        assert row["peak_mb"] >= 0
    moved = candidates.moved_bytes(candidates.make_inputs(1, 6, 8, 4, scan.DTYPES[dtype]))
    assert found["limit"]["forward_ms"] == pytest.approx(1e-6 * moved["forward"] / found["limit"]["copy_gb_s"])
    assert found["triton_by_stock"] == {}


def test_wrong_numbers_are_not_timed(quick, tmp_path, monkeypatch):
    def wrong(u, *rest):
        return 1.01 * candidates.loop_reference(u, *rest)

    monkeypatch.setattr(scan, "candidates", lambda *_: {"mine": candidates.Candidate(wrong)})
    with pytest.raises(SystemExit, match="mine: out differs from the loop reference by 1.0e-02") as ended:
        scan.main([*TINY, "--json", str(tmp_path / "figures.json")])
    assert isinstance(ended.value.code, str)  # which Python prints, with exit status 1
    assert not list(tmp_path.iterdir())


def test_the_report_compares_with_the_stock_kernel(monkeypatch, capsys):
    monkeypatch.setattr(devices, "device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    times = {"loop reference": (50, 200), "triton": (1, 4), "stock pass": (2, 8), "stock kernels": (0.8, 5)}
    rows = {name: {"forward_ms": a, "training_ms": b, "peak_mb": 1.0} for name, (a, b) in times.items()}
    arguments = scan.parse_arguments(["--batch", "3"])
    arguments.device = "cuda"
    scan.report(arguments, rows, {"forward_ms": 0.5, "training_ms": 1.0, "copy_gb_s": 2000.0})
    printed = capsys.readouterr().out
    assert "(3, 1569, 384, 16), float32, a GPU" in printed
    assert "triton / stock pass: 0.50 forward, 0.50 with backward (goal: <= 1.1)" in printed
    assert "triton / stock kernels: 1.25 forward, 0.80 with backward\n" in printed
    assert "left out: triton: PyTorch sees no NVIDIA GPU" in printed
    (line,) = (line for line in printed.splitlines() if line.startswith("triton  "))
    assert line.split() == ["triton", "1.000", "ms", "50.0x", "2.0x", "4.000", "ms", "50.0x", "4.0x", "1.0", "MB"]


@pytest.mark.parametrize("module", ["benchmarks.scan", "benchmarks.model"])
def test_a_gpu_that_is_not_there(module, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    program = __import__(module, fromlist=["parse_arguments"])
    with pytest.raises(SystemExit) as ended:
        program.parse_arguments(["--device", "cuda"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{module}: error: --device cuda: PyTorch sees no NVIDIA GPU")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
@pytest.mark.parametrize("dtype", scan.DTYPES)
def test_the_whole_on_a_gpu(dtype, tmp_path):
    figures = tmp_path / "figures.json"
    flags = ["--device", "cuda", "--dtype", dtype, *TINY, "--json", str(figures)]
    subprocess.run([sys.executable, "-m", "benchmarks.scan", *flags], cwd=ROOT, check=True)
    found = json.loads(figures.read_text())
    assert {"loop reference", "triton", "portable"} <= set(found["candidates"])
    assert all(row["forward_ms"] > 0 and row["peak_mb"] > 0 for row in found["candidates"].values())
    assert found["limit"]["copy_gb_s"] > 20
