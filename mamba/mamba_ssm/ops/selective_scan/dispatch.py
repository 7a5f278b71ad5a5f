"""Choose the backend that computes the scan.

The first of these decides: the `backend=` argument, `set_default_backend`, the environment variable
VIDEOMAMBAPRO_BACKEND, the first available backend of PREFERENCE for the tensor's device. An unknown or unavailable
backend is an error that gives the reason; the automatic choice is logged once.
"""

import functools
import logging
import os
from types import ModuleType

import torch

from mamba.mamba_ssm.ops.selective_scan import cpu, portable, reference, stock, triton

logger = logging.getLogger(__name__)

BACKEND_VARIABLE = "VIDEOMAMBAPRO_BACKEND"
BACKENDS: dict[str, ModuleType] = {module.NAME: module for module in (triton, stock, cpu, portable, reference)}
PREFERENCE = {"cpu": ("cpu", "portable"), "cuda": ("triton", "cuda", "portable")}
FALLBACK_PREFERENCE = ("portable",)
REFERENCE = reference.NAME  # a loop over tokens, for reading and comparison; never chosen automatically

_default_backend: str | None = None


class BackendUnavailableError(RuntimeError):
    """The requested backend cannot run here; the message gives the reason and the remedy."""


def set_default_backend(name: str | None) -> None:
    """Set the default backend of calls without `backend=`; None restores the automatic choice.

    Raises:
        ValueError: There is no backend of that name.
    """
    global _default_backend
    if name is not None:
        _check_known(name)
    _default_backend = name


def available_backends(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """Map each backend to "available" or to the reason why it cannot run on `device` with `dtype`."""
    device = torch.device(device)
    return {name: module.unavailable_reason(device, dtype) or "available" for name, module in BACKENDS.items()}


def requested_backend(backend: str | None) -> str | None:
    """Return the backend requested by the argument, the default or the environment; None if there is no request.

    Raises:
        ValueError: There is no backend of that name.
    """
    name = backend or _default_backend or os.environ.get(BACKEND_VARIABLE) or None
    if name is not None:
        _check_known(name)
    return name


@torch.compiler.assume_constant_result  # torch.compile calls this once and does not trace it
def choose_backend(backend: str | None, device: torch.device, dtype: torch.dtype) -> str:
    """Return the name of the backend to use for tensors of `device` and `dtype`.

    Raises:
        ValueError: There is no backend of that name.
        BackendUnavailableError: The requested backend cannot run here.
    """
    name = requested_backend(backend)
    if name is None:
        return _automatic_choice(device.type, dtype)
    reason = BACKENDS[name].unavailable_reason(device, dtype)
    if reason is not None:
        raise BackendUnavailableError(f"backend {name!r} was requested but cannot run on {device} {dtype}: {reason}")
    return name


@functools.cache
def _automatic_choice(device_type: str, dtype: torch.dtype) -> str:
    for name in PREFERENCE.get(device_type, FALLBACK_PREFERENCE):
        reason = BACKENDS[name].unavailable_reason(torch.device(device_type), dtype)
        if reason is None:
            logger.info("selective scan on %s, %s: backend %s", device_type, dtype, name)
            return name
        if dtype != torch.float64:
            logger.warning("selective scan: backend %r cannot run on %s: %s", name, device_type, reason)
    raise BackendUnavailableError(f"no backend supports {device_type} {dtype}")


def _check_known(name: str) -> None:
    if name not in BACKENDS:
        known = ", ".join(BACKENDS)
        raise ValueError(f"unknown scan backend {name!r} (argument or {BACKEND_VARIABLE}); choose from {known}")
