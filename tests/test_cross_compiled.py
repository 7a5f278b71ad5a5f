"""The kernels built for aarch64 (NEON), under emulation, against the same source built for this processor.

Runs where a cross compiler and an emulator are installed: `apt-get install g++-aarch64-linux-gnu qemu-user-static`.
"""

import platform
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from mamba.mamba_ssm.ops.selective_scan.kernel_library import KERNEL_FLAGS, KERNEL_SOURCES, SOURCE_DIR

HARNESS = Path(__file__).parent / "cross_compiled" / "kernels.cpp"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
FLAGS = ["-std=c++20", "-w", "-static", "-DVMP_ISA=baseline", f"-I{SOURCE_DIR}"]

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not all(map(shutil.which, (COMPILER, EMULATOR, "g++"))),
    reason=f"needs g++, {COMPILER} and {EMULATOR} on x86-64",
)


def run(compiler: str, sources: list[Path], folder: Path, *emulator: str) -> str:
    """Compile and run these sources, and return the program's output."""
    program = folder / compiler
    subprocess.run([compiler, *FLAGS, *KERNEL_FLAGS, *map(str, sources), "-o", str(program)], check=True)
    return subprocess.run([*emulator, str(program)], capture_output=True, text=True, check=True).stdout


def test_neon_computes_what_this_processor_computes(tmp_path):
    sources = [HARNESS, *(SOURCE_DIR / name for name in KERNEL_SOURCES)]
    printed = [run(COMPILER, sources, tmp_path, EMULATOR), run("g++", sources, tmp_path)]
    found, expected = defaultdict(list), defaultdict(list)
    for text, values in zip(printed, (found, expected), strict=True):
        for line in text.splitlines():
            name, value = line.split()
            values[name].append(float(value))
    assert len(expected) == 18 and {n: len(v) for n, v in found.items()} == {n: len(v) for n, v in expected.items()}
    for name, values in expected.items():
        error = np.linalg.norm(np.subtract(found[name], values)) / np.linalg.norm(values)
        assert error < 1e-6, (name, error)


def test_denormal_numbers_are_taken_for_zero_while_asked_for(tmp_path):
    header = (SOURCE_DIR / "tables.h").read_text()
    flush = re.search(r"^class FlushDenormals.*?^};$", header, re.MULTILINE | re.DOTALL)[0]
    program = tmp_path / "flush.cpp"
    program.write_text(f"""
#include <cstdint>
#include <cstdio>
{flush}
volatile float small = 1e-39f;
__attribute__((noinline)) float half() {{ volatile float result = small * 0.5f; return result; }}
int main() {{
  const float before = half();
  float inside;
  {{ const FlushDenormals flush; inside = half(); }}
  printf("%d %d %d", before > 0, inside > 0, half() > 0);
}}
""")
    assert run(COMPILER, [program], tmp_path, EMULATOR) == "1 0 1"
