"""Fixtures shared by several test files."""

import gc
import logging

import pytest

# Files of over half a minute of a processor. One of them that began last would leave the other core idle as long.
LONGEST = ("test_triton_kernels", "test_triton_compile", "test_notebook", "test_engine_torchrun")


def pytest_collection_modifyitems(items):
    """Mark what starts processes of its own; put files that take long first, lest one is left at the end."""
    for item in items:
        if {"subprocess", "run_processes", "run_script", "run_function"} & vars(item.module).keys():
            item.add_marker("processes")
    ranks = {}
    for item in items:
        slow, processes = map(item.get_closest_marker, ("slow", "processes"))
        rank = 0 if item.path.stem in LONGEST else 1 if slow else 2 if processes else 3
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Nothing that is imported or collected goes away: garbage is looked for only among what tests make afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def handlers_stay():
    """Remove the log handlers of a test, which write to streams that are closed after it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def poisoned_memory():
    """Fill uninitialised memory with NaN, so that elements that are never written fail a test."""
    import torch

    torch.use_deterministic_algorithms(True)  # makes torch.empty fill what it gives
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def no_report(monkeypatch):
    """Runs of this process write no report.html: its figures take longer than to train the model of a test."""
    monkeypatch.setattr("reports.page.write_report", lambda *_: "no report")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The file of a small classifier with random weights."""
    from inference_files import save_checkpoint

    return save_checkpoint(tmp_path_factory.mktemp("weights") / "checkpoint.pth")


@pytest.fixture(scope="module")
def predictor(checkpoint):
    """The classifier of `checkpoint` on the CPU."""
    from inference import load_predictor

    return load_predictor(checkpoint, device="cpu")
