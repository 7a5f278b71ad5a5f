"""Stand-ins for the compiled packages mamba-ssm and causal-conv1d."""

import sys
import types

from mamba.mamba_ssm.ops.selective_scan import stock_packages


def install(monkeypatch, name, interface):
    """Install a fake compiled module `name`, with `interface` as the Python module that calls it."""
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, stock_packages.INTERFACES[name], interface)
