"""Freed memory: whether it has to be mapped again."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_memory_kept_after_it_was_freed_is_not_mapped_again():
    code = """
import resource, torch
from common.memory import keep_freed_memory
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for keep in (lambda: True, keep_freed_memory):
    assert keep()
    for _ in range(15):  # the heap takes a few rounds to hold a block that fits with its alignment
        torch.ones(12 << 20)
    before = faults()
    for _ in range(5):
        torch.ones(12 << 20)
    print(faults() - before)
"""
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    returned, kept = map(int, printed.split())
    assert kept * 10 < returned  # 48 MiB, beyond what glibc keeps by itself


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_threads_allocate_from_one_arena():
    code = """
import ctypes, sys, threading
from common.memory import share_one_arena
if sys.argv[-1] == "one":
    assert share_one_arena()
done = threading.Event()
threads = [threading.Thread(target=lambda: (bytes(100_000), done.wait())) for _ in range(4)]
for thread in threads:
    thread.start()
done.set()
ctypes.CDLL(None).malloc_stats()
"""
    arenas = {
        mode: subprocess.run([sys.executable, "-c", code, mode], cwd=ROOT, capture_output=True, text=True, check=True)
        .stderr.count("Arena ")
        for mode in ("own", "one")
    }  # fmt: skip
    assert arenas["one"] == 1 < arenas["own"]
