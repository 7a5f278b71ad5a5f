"""The check of a GPU, where there is none: its parts are stand-ins that succeed, fail, hang or are not installed."""

import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_check, gpu_table, kernels
from benchmarks.documents import markers_of
from benchmarks.gpu_check import Part


def python(code):
    return (sys.executable, "-c", code)


def run(monkeypatch, tmp_path, *parts, flags=(), gpu=True):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    return gpu_check.main(["--output", str(tmp_path / "out"), *flags])


def test_a_part_that_fails_does_not_stop_the_others(monkeypatch, tmp_path, capsys):
    parts = [
        Part("first", 20, python("raise SystemExit('no such kernel')")),
        Part("second", 20, python("print(6 * 7)")),
    ]
    assert run(monkeypatch, tmp_path, *parts) == 1
    told = capsys.readouterr().out
    assert "== first: exit status 1" in told and "no such kernel" in told
    assert "== second: ok" in told and "42" in told and told.rstrip().endswith("failed: first")
    assert "42" in (tmp_path / "out" / "second.log").read_text()


def test_a_part_that_skips_every_test_has_failed(monkeypatch, tmp_path, capsys):
    tests = tmp_path / "test_gpu.py"
    tests.write_text("import pytest\n@pytest.mark.skip\ndef test_a(): pass\n")
    mixed = tmp_path / "test_mixed.py"
    mixed.write_text(tests.read_text() + "def test_b(): pass\n")
    words = ("-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "--noconftest")
    parts = [Part(path.stem, 60, (sys.executable, "-m", "pytest", str(path), *words)) for path in (tests, mixed)]
    assert run(monkeypatch, tmp_path, *parts) == 1
    told = capsys.readouterr().out
    assert "== test_gpu: every test was skipped" in told and "== test_mixed: ok" in told
    assert told.rstrip().endswith("failed: test_gpu")


def test_without_a_gpu_nothing_is_run(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, tmp_path, Part("first", 20, python("print(1)")), gpu=False)
    told = capsys.readouterr()
    assert stopped.value.code == 1 and told.out == "" and len(told.err.splitlines()) == 1
    assert "no NVIDIA GPU" in told.err and not (tmp_path / "out").exists()


def test_a_part_that_hangs_is_stopped_with_its_processes(monkeypatch, tmp_path, capsys):
    child = "import time; time.sleep(3); open('alive', 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, tmp_path, Part("hangs", 1, python(code))) == 1
    assert "stopped after its limit of 1 s" in capsys.readouterr().out
    time.sleep(3)
    assert not (tmp_path / "alive").exists()


def test_nothing_starts_after_the_limit_of_all_parts(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path, Part("late", 20, python("print('ran')")), flags=("--limit", "0")) == 1
    told = capsys.readouterr().out
    assert "late: no time left" in told and "ran" not in told


def test_a_tool_that_is_missing_is_told_and_costs_nothing(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path, Part("profile", 20, ("no-such-profiler",))) == 0
    assert "no-such-profiler is not installed" in capsys.readouterr().out


def test_parts_are_chosen_by_name_and_an_unknown_one_is_refused(monkeypatch, tmp_path, capsys):
    parts = [Part("first", 20, python("print('one')")), Part("second", 20, python("print('two')"))]
    assert run(monkeypatch, tmp_path, *parts, flags=("second",)) == 0
    told = capsys.readouterr().out
    assert "two" in told and "one" not in told
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, *parts, flags=("third",))
    assert "no part third; choose from first, second" in capsys.readouterr().err


def test_the_table_replaces_what_stood_between_the_markers(tmp_path):
    row = {"ms": 40.5, "clips/s": 197.5, "host ms": 0.2, "GiB": 1.9}
    steps = {"batch": 8, "frames": 8, "gpu": "a card", "models": {"tiny": {"step, CUDA graph": row}}}
    kernel = {"pass": "norm", "kernel": "add_norm_kernel", "us": 10.2, "launches": 1, "bytes us": 9.6, "exp us": 0.0}
    (tmp_path / "steps.json").write_text(json.dumps(steps))
    (tmp_path / "kernels.json").write_text(json.dumps({"gpu": "a card", "sizes": "(8, 5, 4)", "kernels": [kernel]}))
    document = tmp_path / "gpu.md"
    begin, end = markers_of(gpu_table.MARKERS)
    document.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    gpu_table.main([str(tmp_path), "--write", str(document)])
    written = document.read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert "| Tiny, 8 x 8 frames | step, CUDA graph | 197.5 | 40.5 | 0.2 |  | 1.9 |" in written
    assert "| norm | add_norm_kernel | 10 | 1 | 10 |  |" in written


def test_a_folder_without_figures_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="no figures"):
        gpu_table.report(tmp_path)


def test_a_pass_whose_kernel_fails_costs_no_other_pass_and_no_figures(monkeypatch, tmp_path, capsys):
    def broken():
        raise RuntimeError("out of resources: shared memory")

    def times(call):
        return call() or {"row_sum_kernel": kernels.Kernel(microseconds=3.0, launches=1)}

    monkeypatch.setattr(kernels, "scan_calls", lambda *_: {"scan forward": broken})
    monkeypatch.setattr(kernels, "other_calls", lambda *_: {"norm": lambda: None})
    monkeypatch.setattr(kernels, "kernel_times", times)
    monkeypatch.setattr(kernels, "compile_in_parallel", lambda _: None)
    monkeypatch.setattr(kernels.devices, "require_device", lambda *_: None)
    monkeypatch.setattr(kernels.devices, "large_copy", lambda _: lambda: {kernels.LIBRARY: kernels.Kernel(100.0)})
    monkeypatch.setattr(kernels.devices, "copy_rate", lambda *_: 3e12)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: SimpleNamespace(multi_processor_count=132))
    assert kernels.main(["--json", str(tmp_path / "kernels.json")]) == 1
    told = capsys.readouterr().out
    assert "scan forward: failed: RuntimeError: out of resources: shared memory\n" in told
    [row] = json.loads((tmp_path / "kernels.json").read_text())["kernels"]
    assert (row["pass"], row["us"]) == ("norm", 3.0)
    assert "| scan forward | failed |" in gpu_table.report(tmp_path)
