"""The build of the kernel: what determines the library, and handling of a missing compiler or a damaged library."""

import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import run_function

from mamba.mamba_ssm.ops.selective_scan import (
    available_backends,
    bidirectional_scan,
    build_extension,
    kernel_library,
)
from mamba.mamba_ssm.ops.selective_scan.onnx_library import LIBRARY as ONNX_LIBRARY

ROOT = Path(__file__).resolve().parents[1]
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler on this machine"
)


def scan_without_library(results):
    """Scan several times where the library cannot be built or loaded, and write what came of it."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    x, B = torch.ones(1, 3, 2), torch.ones(1, 3, 1, 4)
    for _ in range(3):
        y = bidirectional_scan(x, x, -torch.ones(2, 4), None, B, B)
    results.write_text(f"{bool(torch.isfinite(y).all())} {available_backends()['cpu']}".replace("\n", " "))


@pytest.mark.parametrize("compiler", ["/nowhere/c++", shutil.which("false") or "/bin/false"], ids=["none", "failing"])
def test_without_a_working_compiler_the_portable_path_serves_and_says_why(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv(kernel_library.BUILD_DIR_VARIABLE, str(tmp_path / "build"))
    status, said = run_function(scan_without_library, tmp_path / "result", folder=tmp_path)
    assert status == 0, said
    result = (tmp_path / "result").read_text()
    assert result.startswith("True")
    assert "CXX" in result
    assert said.count("backend 'cpu' cannot run") == 1


@needs_compiler
def test_a_library_that_does_not_load_is_named_and_the_portable_path_serves(tmp_path, monkeypatch):
    monkeypatch.setenv(kernel_library.BUILD_DIR_VARIABLE, str(tmp_path))
    library = kernel_library.library_path(build_extension.torch_library())
    library.write_bytes(b"\x7fELF of another machine")
    status, said = run_function(scan_without_library, tmp_path / "result", folder=tmp_path)
    assert status == 0, said
    assert (tmp_path / "result").read_text().startswith(f"True the library {library} cannot be loaded")


@needs_compiler
def test_whatever_changes_another_library_is_built(tmp_path, monkeypatch):
    compiler = kernel_library.find_compiler()
    key = lambda: kernel_library.build_key(compiler, build_extension.torch_library())  # noqa: E731
    keys = [key()]
    assert key() == keys[0]

    def add_key():
        keys.append(key())

    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.0.0")
        add_key()
    with monkeypatch.context() as patch:
        patch.setenv(kernel_library.SANITIZE_VARIABLE, "address")
        add_key()
    with monkeypatch.context() as patch:
        patch.setattr(kernel_library.platform, "machine", lambda: "riscv64")
        add_key()
    sources = shutil.copytree(kernel_library.SOURCE_DIR, tmp_path / "csrc")
    (sources / "vector.h").write_text((sources / "vector.h").read_text() + "\n")
    monkeypatch.setattr(kernel_library, "SOURCE_DIR", sources)
    add_key()
    assert len(set(keys)) == len(keys)


def test_only_kernel_sources_are_compiled_for_an_instruction_set():
    """Code that runs on every processor, such as operators and headers, must not contain special instructions."""
    libraries = (build_extension.torch_library(), ONNX_LIBRARY)
    operators = [kernel_library.operator_commands("c++", library) for library in libraries]
    for command in (c for commands in (kernel_library.kernel_commands("c++"), *operators) for c in commands.values()):
        source = Path(command[command.index("-c") + 1]).name
        special = [flag for flag in command if flag.startswith("-m")]
        assert not special or source in kernel_library.KERNEL_SOURCES, command
    shared = {"stdint.h", "immintrin.h"}  # declarations and always-inlined intrinsics only
    for name in (*kernel_library.KERNEL_SOURCES, "vector.h", "scan_common.h", "kernels.h"):
        text = (kernel_library.SOURCE_DIR / name).read_text()
        assert set(re.findall(r"#include <(.+?)>", text)) <= shared, name


def test_kernels_compiled_before_pytorch_is_there_serve_its_library(tmp_path, monkeypatch):
    log = tmp_path / "log"
    compiler = tmp_path / "c++"
    compiler.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\nwhile [ $# -gt 1 ]; do [ "$1" = -o ] && : > "$2"; shift; done\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv(kernel_library.BUILD_DIR_VARIABLE, str(tmp_path / "build"))

    def compiled():
        lines = log.read_text().splitlines()
        log.write_text("")
        return [set(re.findall(r"(\w+\.cpp)\b", line)) for line in lines if " -c " in line]

    # Without site-packages, as before the installation.
    subprocess.run([sys.executable, "-I", "-S", kernel_library.__file__], check=True)
    assert set.union(*compiled()) == set(kernel_library.KERNEL_SOURCES)
    library = build_extension.torch_library()
    assert kernel_library.build(library).exists()
    assert compiled() == [set(library.sources)], "the operators, which read PyTorch's headers once"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_the_kernel_shares_pytorchs_threads():
    """There must be only one OpenMP run-time in the process; a second would start more threads."""
    if build_extension.load_failure() is not None:
        pytest.skip(str(build_extension.load_failure()))
    # In a process of its own: another test may have brought scikit-learn's threads along.
    code = "from mamba.mamba_ssm.ops.selective_scan import build_extension; build_extension.load()"
    code += "; print(open('/proc/self/maps').read())"
    maps = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    runtimes = set(re.findall(r"\S*lib[gi]?omp\S*\.so\S*", maps))
    assert len(runtimes) == 1, runtimes
