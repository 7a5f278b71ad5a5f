"""The operator `bidirectional_scan` and its backends, one file each.

`registration` makes it a PyTorch operator, `dispatch` chooses the backend, `directions` adds up scans in any order of
the tokens. `reference` is the readable definition, `portable` is plain PyTorch, `cpu` the C++ kernel, `triton` the GPU
kernels, `stock` the kernels of mamba-ssm.
"""

from mamba.mamba_ssm.ops.selective_scan.dispatch import (
    BACKEND_VARIABLE,
    available_backends,
    choose_backend,
    set_default_backend,
)
from mamba.mamba_ssm.ops.selective_scan.registration import bidirectional_scan

__all__ = [
    "BACKEND_VARIABLE",
    "available_backends",
    "bidirectional_scan",
    "choose_backend",
    "set_default_backend",
]
