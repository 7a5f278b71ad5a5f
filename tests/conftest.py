"""Fixtures that tests of several files share."""

import logging

import pytest


@pytest.fixture(autouse=True)
def handlers_stay():
    """Take away the handlers that a test sets up: they write to streams that are closed after it."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def poisoned_memory():
    """Fill uninitialised memory with NaN, so that an element that nobody wrote cannot pass."""
    import torch

    torch.use_deterministic_algorithms(True)  # makes torch.empty fill what it gives
    yield
    torch.use_deterministic_algorithms(False)
