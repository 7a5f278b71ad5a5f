"""These tests need Triton's interpreter, which a process has or has not: tests/test_triton_kernels.py runs them."""

import os

import pytest

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]


@pytest.fixture
def together(monkeypatch):
    """All programs of a launch at once, see `side_by_side`; not for the norm's backward pass: it loops over rows."""
    from mamba.mamba_ssm.ops.triton import causal_conv1d, layer_norm, row_sums, selective_scan, state_rates
    from tests.triton_interpreted.side_by_side import side_by_side

    with side_by_side((selective_scan, causal_conv1d, layer_norm, row_sums, state_rates), monkeypatch):
        yield
