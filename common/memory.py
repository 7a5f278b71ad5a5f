"""Control over what the C library does with freed memory."""

import ctypes
import sys

# Constants of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_NEVER = 2**31 - 1
_LARGEST_KEPT = (1 << 30, 32 << 20)  # bytes; each version of glibc accepts at least one of these


LARGE_BYTES = 128 << 20
"""Memory is not kept for larger arrays of frames, such as 16 of 2560 x 1440, because they are unusual."""


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory of this process for the next array instead of returning it to the system.

    Otherwise every large array is mapped anew, page by page, which on a virtual machine costs about as much as the
    scan of a layer or the augmentation of a clip. Call it at the start of the processes that run the model or read
    data; forked processes inherit it.

    Returns:
        whether it took effect: False if the C library is not glibc.
    """
    library = _glibc()
    if library is None:
        return False
    kept = any(library.mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT)
    return bool(library.mallopt(_TRIM_THRESHOLD, _NEVER)) and kept


def share_one_arena() -> bool:
    """Make the threads of this process that start later allocate from the arenas that exist instead of their own.

    What one thread allocates and another frees, as frames between a decoder and a model, leaves holes in the arena of
    the first, so that the memory grows for a long time although nothing is leaked.

    Returns:
        whether it took effect: False if the C library is not glibc.
    """
    library = _glibc()
    return library is not None and bool(library.mallopt(_ARENA_MAX, 1))


def release_after(size: int) -> None:
    """Return free memory to the system after work on an array of `size` bytes, if that was unusually large."""
    library = _glibc()
    if size > LARGE_BYTES and library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
