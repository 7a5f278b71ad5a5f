"""The progress bar of long operations."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(iterable: Iterable, *, desc: str, total: int | None = None, enabled: bool = True) -> tqdm:
    """Wrap `iterable` in a progress bar, which is drawn only on a terminal and if `enabled` (on rank 0)."""
    return tqdm(
        iterable,
        desc=desc,
        total=total,
        file=getattr(sys.stderr, "stream", sys.stderr),  # not escaped: a bar below another one moves the cursor
        disable=not (enabled and sys.stderr.isatty()),
        leave=False,
        dynamic_ncols=True,
    )
