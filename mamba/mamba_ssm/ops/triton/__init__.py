"""Triton kernels for NVIDIA GPUs, one file each; docs/gpu.md explains their design and lists what they compile to.

`selective_scan_forward` and `selective_scan_backward` compute the bidirectional scan, `selective_scan_carry` passes
states from chunk to chunk for both, `layer_norm` adds and normalises. Nothing here is imported unless Triton is
installed; the backend in `ops/selective_scan/triton.py` and `add_norm` import it at the first use.
"""
