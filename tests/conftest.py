"""Fixtures that tests of several files share."""

import pytest


@pytest.fixture
def poisoned_memory():
    """Fill uninitialised memory with NaN, so that an element that nobody wrote cannot pass."""
    import torch

    torch.use_deterministic_algorithms(True)  # makes torch.empty fill what it gives
    yield
    torch.use_deterministic_algorithms(False)
