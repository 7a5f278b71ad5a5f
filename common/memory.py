"""What the C library does with freed memory."""

import ctypes
import sys

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1
_LARGEST_KEPT = (1 << 30, 32 << 20)  # bytes; what a version of glibc takes at most is one of these


LARGE_BYTES = 128 << 20
"""Frames of a reading that take more, such as 16 of 2560 x 1440, are so unusual that memory is not kept for them."""


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next array instead of returning it to the system, process-wide.

    Every large array is otherwise mapped anew, page by page: on a virtual machine that costs about as much as the
    scan of a layer, or as the augmentation of a clip. For processes to call at start, the model's and those that read
    data; a process that is forked later inherits it.

    Returns:
        Whether it is done: False where the C library is not glibc.
    """
    library = _glibc()
    if library is None:
        return False
    kept = any(library.mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT)
    return bool(library.mallopt(_TRIM_THRESHOLD, _NEVER)) and kept


def release_after(size: int) -> None:
    """Return what is free now to the system, after work on an array of `size` bytes that was larger than usual."""
    library = _glibc()
    if size > LARGE_BYTES and library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
