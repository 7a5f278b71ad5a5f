"""--num_workers auto: threads and workers by the cores, the processes and the device."""

import os

import pytest
import torch

import run_class_finetuning
from engines import machine
from engines.configuration import parse_arguments
from engines.machine import settle_workers, suited_workers


def test_a_cpu_run_uses_every_core_once_and_a_gpu_run_always_has_a_worker():
    for cores in range(1, 129):
        workers = suited_workers(cores, gpu=False)
        assert 0 <= workers < cores and cores - workers >= 3 * workers
        assert 1 <= suited_workers(cores, gpu=True) <= max(1, cores - 1)


@pytest.fixture
def settled(monkeypatch):
    """Flags after the choice on a machine with `cores`, and the number of threads that was set, or None."""

    def settle(cores, processes, device, **environment):
        threads = []
        monkeypatch.setattr(machine, "usable_cores", lambda: cores)
        monkeypatch.setattr(torch, "set_num_threads", threads.append)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        for name, value in {"LOCAL_WORLD_SIZE": str(processes), **environment}.items():
            monkeypatch.setenv(name, value)
        flags = {"num_workers": "auto", "device": device}
        settle_workers(flags)
        return flags["num_workers"], threads[0] if threads else None

    return settle


def test_two_cores_decode_in_the_process_and_64_with_gpus_feed_them(settled):
    assert settled(2, 1, "cpu") == (0, 2)
    assert settled(2, 2, "cpu", OMP_NUM_THREADS="1") == (0, None), "torchrun has chosen the threads"
    assert settled(16, 1, "cpu") == (4, 12)
    assert settled(64, 8, "cuda") == (7, None)
    assert settled(64, 1, "cuda:3") == (12, None)


def parsed(word):
    flags = ["--data_path", "lists", "--device", "cpu", "--eval", "--num_workers", word]
    return parse_arguments(run_class_finetuning.get_parser(), flags, script=run_class_finetuning.SCRIPT)


def test_a_run_gets_a_number_and_the_log_says_which(monkeypatch, caplog):
    caplog.set_level("INFO")
    assert parsed("7").num_workers == 7 and "auto" not in caplog.text
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    assert parsed("auto").num_workers == 0
    assert "2 core(s) for a process on the CPU" in caplog.text and "0 worker(s)" in caplog.text
    with pytest.raises(SystemExit):
        parsed("some")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_the_cores_are_those_that_the_process_may_use():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
