"""The doctor recognises every situation of a user and names the command that fixes it."""

import importlib
import importlib.util
import runpy
import sys
import types
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from mamba.mamba_ssm import doctor
from mamba.mamba_ssm.ops.selective_scan import stock_packages
from tests.stock_standins import install

FIND_SPEC = importlib.util.find_spec


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    stock_packages.load_extension.cache_clear()
    for module in stock_packages.PACKAGES:
        monkeypatch.setitem(sys.modules, module, None)
    yield
    stock_packages.load_extension.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    properties = SimpleNamespace(name="NVIDIA H100", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def with_driver(monkeypatch, present):
    monkeypatch.setattr(doctor, "driver_is_installed", lambda: present)


def put_module(monkeypatch, folder, name, body):
    """Make `import name` run `body`; the packages around the module are empty."""
    *parents, leaf = name.split(".")
    for depth in range(len(parents)):
        package = ModuleType(".".join(parents[: depth + 1]))
        package.__path__ = [str(folder)]
        monkeypatch.setitem(sys.modules, package.__name__, package)
    (folder / f"{leaf}.py").write_text(body)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()


def text():
    return "\n".join(doctor.report()[0])


def test_no_gpu(no_gpu, monkeypatch):
    with_driver(monkeypatch, False)
    assert "none that PyTorch can use" in text()
    assert "no NVIDIA GPU" in text()
    assert "Backends for cpu" in text()
    assert not any(finding.matters for finding in doctor.findings() if "GPU" in finding.problem)


def test_a_driver_but_a_pytorch_for_the_cpu(no_gpu, monkeypatch):
    with_driver(monkeypatch, True)
    monkeypatch.setattr(torch.version, "cuda", None)
    (finding,) = [finding for finding in doctor.findings() if finding.matters and "PyTorch" in finding.problem]
    assert "built for the CPU" in finding.problem
    assert finding.remedy == "pip install --force-reinstall torch torchvision"


def test_a_driver_that_pytorch_cannot_use(no_gpu, monkeypatch):
    with_driver(monkeypatch, True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "PyTorch for CUDA 13.0 cannot use the installed NVIDIA driver" in text()
    assert "download.pytorch.org/whl/cu126" in text()


def test_a_driver_too_old_for_the_oldest_cuda_is_not_sent_there_again(no_gpu, monkeypatch):
    with_driver(monkeypatch, True)
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    assert "PyTorch for CUDA 12.6 cannot use the installed NVIDIA driver" in text()
    assert "cu126" not in text() and "update the NVIDIA driver" in text()


def test_a_gpu_with_all_that_is_needed(gpu, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "triton" else FIND_SPEC(name))
    lines, well = doctor.report()
    assert well
    assert any("NVIDIA H100, compute capability 9.0, 80 GiB" in line for line in lines)
    assert any("triton" in line and "<- chosen" in line for line in lines)


def test_a_gpu_without_triton(gpu, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else FIND_SPEC(name))
    lines, well = doctor.report()
    assert not well
    assert any("a GPU, but no Triton" in line and "pip install triton" in line for line in lines)
    assert any("portable" in line and "<- chosen" in line for line in lines)


def test_mamba_ssm_absent(gpu):
    absent = [finding for finding in doctor.findings() if "mamba-ssm is not installed" in finding.problem]
    assert len(absent) == 1
    assert "requirements-cuda.txt" in absent[0].remedy
    assert not absent[0].matters


@pytest.mark.parametrize(("module", "package"), stock_packages.PACKAGES.items())
def test_a_package_without_its_compiled_module(gpu, tmp_path, monkeypatch, module, package):
    facts = tmp_path / f"{package.replace('-', '_')}-9.8.7.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 9.8.7\n")
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = [finding for finding in doctor.findings() if module in finding.problem]
    assert f"{package} 9.8.7 was installed without" in finding.problem
    # Asked for again by name only, pip finds it installed; forced to, it takes the wheel that it has built before.
    assert finding.remedy.startswith("MAMBA_KEEP_CUDA_BUILD=TRUE pip install ")
    assert finding.remedy.endswith(f" --no-cache-dir --force-reinstall {package}")


def test_wherever_mamba_ssm_is_installed_its_scan_is_asked_for():
    root = Path(__file__).parent.parent
    texts = [file.read_text() for file in [*root.glob("*.txt"), *root.glob("*.md"), *root.glob("docs/*.md")]]
    lines = [line for text in texts for line in text.splitlines()]
    installing = [
        line for line in lines if "pip install" in line and ("requirements-cuda" in line or "mamba-ssm" in line)
    ]
    assert len(installing) >= 4
    assert [line for line in installing if "MAMBA_KEEP_CUDA_BUILD=TRUE pip install" not in line] == []


@pytest.mark.parametrize(
    ("message", "words"), [("undefined symbol: _ZN3c10", "another PyTorch"), ("libcudart.so.11.0: no", "another CUDA")]
)
def test_mamba_ssm_broken(gpu, tmp_path, monkeypatch, message, words):
    put_module(monkeypatch, tmp_path, stock_packages.SCAN_MODULE, f"raise ImportError({message!r})\n")
    broken = [finding for finding in doctor.findings() if "broken" in finding.problem]
    assert len(broken) == 1
    assert words in broken[0].problem
    assert broken[0].remedy.endswith("--force-reinstall mamba-ssm")
    assert "mamba-ssm is installed but broken" in text()


def test_mamba_ssm_serves_where_triton_is_absent(gpu, tmp_path, monkeypatch):
    install(monkeypatch, stock_packages.SCAN_MODULE, types.ModuleType("interface"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else FIND_SPEC(name))
    assert any(line.split()[0] == "cuda" and "<- chosen" in line for line in doctor.report()[0])


def test_no_compiler(no_gpu, monkeypatch):
    with_driver(monkeypatch, False)
    monkeypatch.setattr(doctor, "_compiler_version", lambda: "not installed")
    monkeypatch.setattr(doctor, "available_backends", lambda *_: {"cpu": "no compiler"})
    assert any("C++ compiler" in f.problem and f.remedy == doctor.INSTALL_COMPILER for f in doctor.findings())


def test_versions_are_those_installed():
    versions = doctor.versions()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(doctor.PACKAGES) < set(versions)


def test_the_command_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["doctor"])
    monkeypatch.delitem(sys.modules, doctor.__name__)  # as `python -m` does, it runs from its file
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(doctor.__name__, run_name="__main__")
    assert ended.value.code in (0, 1)
    printed = capsys.readouterr().out
    assert "Backends for" in printed
    assert "<- chosen" in printed


def test_optional_tools_name_their_packages_or_what_installs_them(no_gpu, monkeypatch):
    versions = {"huggingface_hub": "2.4.0", "onnx": "1.23.2", "starlette": "1.0", "uvicorn": "1.1"}
    monkeypatch.setattr(doctor, "_package_version", lambda name: versions.get(name, "not installed"))
    lines = [" ".join(line.split()) for line in text().splitlines()]
    assert "tools.checkpoint hub huggingface_hub 2.4.0" in lines
    assert "tools.export --format transformers pip install transformers" in lines
    assert "tools.export model.onnx pip install onnxscript onnxruntime" in lines
    assert "run_demo_app.py starlette 1.0, uvicorn 1.1" in lines
    assert "--track wandb pip install wandb" in lines


@pytest.mark.parametrize(
    ("body", "works"),
    [
        ("ffmpeg_major_version = 5", True),
        ("ffmpeg_major_version = None", False),
        ("raise RuntimeError('Could not load libtorchcodec')", False),  # as versions before 0.17
    ],
)
def test_torchcodec_without_ffmpeg_is_not_called_usable(no_gpu, monkeypatch, tmp_path, body, works):
    put_module(monkeypatch, tmp_path, "torchcodec", body)
    monkeypatch.setattr(doctor, "_package_version", lambda name: "0.17")
    (line,) = (line for line in text().splitlines() if "--reader torchcodec" in line)
    assert "torchcodec 0.17" in line and ("apt install ffmpeg" in line) is not works


@pytest.mark.parametrize(
    "triton, numpy, works",
    [
        ("3.5.1", "2.4.6", False),
        ("3.6.0", "2.4.0", False),
        ("3.6.0", "2.3.5", True),
        ("3.7.0", "2.4.6", True),
        ("3.8.0", "2.10.0", True),
        ("not installed", "2.4.6", True),
    ],
)
def test_versions_of_triton_whose_interpreter_numpy_breaks(monkeypatch, triton, numpy, works):
    found = {"triton": triton, "numpy": numpy}
    monkeypatch.setattr(doctor, "_package_version", lambda name: found.get(name, "not installed"))
    fault = doctor.interpreter_fault()
    assert (fault is None) == works
    assert works or (triton in fault.problem and numpy in fault.problem and "numpy<2.4" in fault.remedy)
    assert works or not fault.matters
